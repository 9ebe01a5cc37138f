"""Imports the modules that define actors, and makes sure that their actors are Playbill's."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import dramatiq
from dramatiq.middleware import Middleware

from playbill.broker.base import PlaybillBroker
from playbill.errors import ConfigurationError
from playbill.observe.log import get_logger

QUEUE_WITHOUT_ACTORS: Final = "worker.queue_without_actors"

_log = get_logger(__name__)


def load_actors(modules: Sequence[str], broker: PlaybillBroker) -> None:
    """Import modules; the working directory is on the path, as with ``python -m``.

    Args:
        modules: Dotted names.
        broker: The configured broker.

    Raises:
        ConfigurationError: A module does not import, defines no actor at all, or binds its actors to another broker.
    """
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise ConfigurationError(f"module {name}: cannot be imported: {type(error).__name__}: {error}") from error
    strangers = [actor for name in modules for actor in _actors_of(name) if actor.broker is not broker]
    if strangers:
        names = ", ".join(sorted(actor.actor_name for actor in strangers))
        raise ConfigurationError(
            f"actors bound to another broker, which would run untracked: {names}; remove set_broker() from their "
            "module, or call playbill.configure() there instead"
        )
    if not broker.actors:
        raise ConfigurationError(f"no actor is defined in {', '.join(modules) or 'no module at all'}")
    broker.add_middleware(_QueuesWithoutActors())


class _QueuesWithoutActors(Middleware):
    """Says which served queues no actor is at home in: no error, as a message may name another queue than its actor's.

    A mistyped queue looks just the same, and would be served in silence for ever.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Compare what is served with what the modules define."""
        homes = {actor.queue_name for actor in broker.actors.values()}
        for queue in sorted((worker.consumer_whitelist or set()) - homes):
            _log.warning(QUEUE_WITHOUT_ACTORS, queue=queue, queues_of_actors=sorted(homes))


def _actors_of(module: str) -> Iterator[dramatiq.Actor[..., object]]:
    for value in vars(sys.modules[module]).values():
        actor = value if isinstance(value, dramatiq.Actor) else getattr(value, "__dict__", {}).get("__actor__")
        if isinstance(actor, dramatiq.Actor):
            yield actor
