"""Moves actors to the broker of a test, and back.

An actor belongs to the broker that was global when its module was imported. That may be the service's own, or that of
an earlier test that imported the module first; neither may be used by this test.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import dramatiq

#: Actors of modules that were first imported inside a harness: their home broker is closed, they live on.
_homeless: weakref.WeakSet[dramatiq.Actor[Any, Any]] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class _Home:
    actor: dramatiq.Actor[Any, Any]
    broker: dramatiq.Broker
    fn: Callable[..., Any]


class Rebinding:
    """Actors that are bound to a test's broker for a while.

    Args:
        broker: The test's broker.
    """

    def __init__(self, broker: dramatiq.Broker) -> None:
        self._broker = broker
        self._homes: dict[int, _Home] = {}

    def bind(self, actors: Iterable[dramatiq.Actor[Any, Any]]) -> None:
        """Bind actors; those that are bound already, or whose name is taken, are left alone."""
        for actor in actors:
            if actor.broker is self._broker or actor.actor_name in self._broker.actors:
                continue
            self._homes[id(actor)] = _Home(actor, actor.broker, actor.fn)
            actor.broker = self._broker
            self._broker.declare_actor(actor)

    def bind_homeless(self) -> None:
        """Bind the actors that earlier tests have left behind."""
        self.bind(sorted(_homeless, key=lambda actor: actor.actor_name))

    def restore(self) -> None:
        """Bind all actors to where they came from."""
        for actor in list(self._broker.actors.values()):
            home = self._homes.get(id(actor))
            if home is not None:
                actor.broker, actor.fn = home.broker, home.fn
            elif not _is_local(actor):
                _homeless.add(actor)
        self._homes.clear()


def _is_local(actor: dramatiq.Actor[Any, Any]) -> bool:
    """Whether the actor was defined inside a function: then it dies with its test."""
    fn = inspect.unwrap(actor.fn)
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return "<locals>" in name
