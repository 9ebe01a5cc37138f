"""The policies a worker runs under: read from the store at start and whenever a heartbeat tells of a new version."""

from __future__ import annotations

from typing import Any

import dramatiq

from playbill.policy.resolve import EffectivePolicy, PolicyDefaults, resolve
from playbill.settings import Settings
from playbill.store.port import Store
from playbill.store.values import QueuePolicy

#: Options by which a single message differs from its actor.
_OVERRIDES = frozenset(
    {"max_retries", "min_backoff", "max_backoff", "time_limit", "max_age", "throws", "store_results"}
)


class Policies:
    """Effective policy of each message; those without options of their own share one per actor.

    Args:
        store: Where the queues' policies are.
        broker: Knows the actors.
        settings: Defaults where nobody says anything.
    """

    def __init__(self, store: Store, broker: dramatiq.Broker, settings: Settings) -> None:
        self._store = store
        self._broker = broker
        self._defaults = PolicyDefaults(
            time_limit_s=settings.time_limit_s, time_limit_grace_s=settings.time_limit_grace_s
        )
        self._by_queue: dict[str, QueuePolicy] = {}
        self._by_actor: dict[tuple[str, str], EffectivePolicy] = {}
        self.version = 0

    def load(self) -> None:
        """Read all policies; in force for every attempt claimed from now on."""
        policies = self._store.policies()
        self._by_queue = policies
        self._by_actor = {}
        self.version = max((policy.version for policy in policies.values()), default=0)

    def of(self, message: dramatiq.Message[Any]) -> EffectivePolicy:
        """The policy of one message."""
        if not _OVERRIDES.isdisjoint(message.options):
            return self._resolve(message.queue_name, message.actor_name, message.options)
        key = (message.queue_name, message.actor_name)
        policy = self._by_actor.get(key)
        if policy is None:
            policy = self._by_actor[key] = self._resolve(*key, {})
        return policy

    def _resolve(self, queue: str, actor: str, options: dict[str, Any]) -> EffectivePolicy:
        spec = self._by_queue.get(queue)
        return resolve(options, spec.spec if spec else None, self._broker.get_actor(actor).options, self._defaults)
