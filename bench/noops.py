"""The no-op actor of the benchmarks, on a queue of the run's choice."""

from __future__ import annotations

from typing import Any

import dramatiq


def declare(queue: str) -> dramatiq.Actor[..., Any]:
    """The actor, bound to Dramatiq's global broker."""
    broker = dramatiq.get_broker()
    if "noop" in broker.actors:
        return broker.actors["noop"]

    @dramatiq.actor(queue_name=queue, actor_name="noop")
    def noop(number: int) -> None:
        """Do nothing."""

    return noop
