"""Dramatiq's StubBroker for actors that are written for Playbill."""

from __future__ import annotations

from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware

from playbill.broker.middleware import VerdictMiddleware


class PlaybillOptions(Middleware):  # type: ignore[misc, unused-ignore]
    """Declares the actor options that only Playbill knows, and does nothing with them.

    Args:
        names: The options.
    """

    def __init__(self, names: set[str]) -> None:
        self._names = names

    @property
    def actor_options(self) -> set[str]:
        """The options."""
        return self._names


def stub_broker(*, fail_fast_default: bool = True) -> StubBroker:
    """A plain ``StubBroker`` on which actors with Playbill's options (``sensitive``) can be declared.

    It tracks nothing: ``playbill.current_job()`` is detached inside its actors, so progress and checkpoints go
    nowhere. It does not become Dramatiq's global broker: call ``dramatiq.set_broker`` as with any other.

    Args:
        fail_fast_default: As in ``StubBroker``.

    Returns:
        The broker, with Dramatiq's default middleware.
    """
    broker = StubBroker(fail_fast_default=fail_fast_default)
    broker.add_middleware(PlaybillOptions(VerdictMiddleware().actor_options - broker.actor_options))
    return broker
