"""Actors that misbehave in ways a worker must cope with; what a job does is in the ledger of the fault suites.

A gate is the path of a file: jobs wait until it exists, so no test depends on how long anything takes.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import dramatiq

import playbill
from tests.faults.jobs import _note as note

#: Of jobs that do not listen, ms.
TIME_LIMIT_MS = 300
_memory: list[bytes] = []


def other(queue: str) -> str:
    """The second queue of a worker that serves two."""
    return f"{queue}-other"


def hold(gate: str) -> str:
    """Run until the gate opens."""
    note("start")
    _wait(gate)
    note("end")
    return "held"


def deaf(gate: str) -> str:
    """Like ``hold``, but no exception from outside stops it; a second attempt returns at once."""
    note("start")
    waiting = playbill.current_job().attempt == 1
    while waiting:
        try:
            _wait(gate)
            waiting = False
        except BaseException as error:  # noqa: BLE001 - that is what makes it deaf
            note(type(error).__name__)
    note("end")
    return "at last"


def polite(gate: str) -> None:
    """Stop at the first checkpoint after a cancellation."""
    note("start")
    while not Path(gate).exists():
        if playbill.current_job().cancelled:
            note("heard")
            playbill.current_job().progress(1)
        time.sleep(0.01)


def refuse() -> None:
    """Fail."""
    note("start")
    raise ValueError("always")


def grow(size_mb: int) -> None:
    """Never give back what it takes."""
    note("start")
    _memory.append(b"x" * (size_mb * 1_000_000))
    note("end")


def end_thread() -> None:
    """End the thread that runs this."""
    note("start")
    threading.current_thread().stop()  # type: ignore[attr-defined, unused-ignore] # Dramatiq's own
    note("end")


def tick(ms: int) -> None:
    """Take some time, on the second queue."""
    note("start")
    time.sleep(ms / 1000)
    note("end")


def _wait(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)


def declare(queue: str, broker: dramatiq.Broker) -> list[dramatiq.Actor[Any, Any]]:
    """Make actors of all that."""

    def actor(fn: Any, **options: Any) -> dramatiq.Actor[Any, Any]:
        return dramatiq.actor(fn, broker=broker, **{"queue_name": queue, **options})

    made = [actor(fn) for fn in (hold, polite, grow, end_thread)]
    made.append(actor(deaf, time_limit=TIME_LIMIT_MS, max_retries=1, min_backoff=50, max_backoff=100))
    made.append(actor(deaf, actor_name="deaf_once", time_limit=TIME_LIMIT_MS, max_retries=0))
    made.append(actor(deaf, actor_name="deaf_for_long"))
    made.append(actor(refuse, max_retries=5, min_backoff=600_000))
    made.append(actor(tick, queue_name=other(queue)))
    return made
