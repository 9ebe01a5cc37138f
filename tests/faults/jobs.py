"""Actors of the fault suites. Each run leaves its start and its end in a ledger that no fault can reach.

The ledger is a file: one appended line is one write, which survives SIGKILL of the writer and any outage of the
servers. Batches of `batches` are rows of the store's database, written in the job's own transaction.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import dramatiq
import sqlalchemy as sa

import playbill
from playbill.settings import load
from playbill.store.engine import parse_url

LEDGER = "PLAYBILL_TEST_LEDGER"
QUEUE = "PLAYBILL_TEST_QUEUE"
#: Backoff of everything that fails because of a fault, ms.
PATIENT = {"max_retries": 200, "min_backoff": 50, "max_backoff": 500}

_engine: sa.Engine | None = None


class BrokenJobError(Exception):
    """What failing jobs raise."""


def _note(event: str) -> None:
    job = playbill.current_job()
    line = f"{time.time_ns()} {job.id} {job.attempt} {event} {os.getpid()}\n"
    descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _database() -> sa.Engine:
    global _engine  # noqa: PLW0603 - one engine a process
    if _engine is None:
        url = parse_url(load().store_url.get_secret_value())
        _engine = sa.create_engine(url, pool_pre_ping=True)
    return _engine


def noop() -> None:
    _note("start")
    _note("end")


def nap(ms: int) -> None:
    _note("start")
    time.sleep(ms / 1000)
    _note("end")


def flaky(failures: int) -> None:
    _note("start")
    if playbill.current_job().attempt <= failures:
        raise BrokenJobError(f"as asked, {failures} times")
    _note("end")


def broken() -> None:
    _note("start")
    raise BrokenJobError("always")


def batches(count: int, pause_ms: int) -> None:
    _note("start")
    job = playbill.current_job()
    for batch in range(job.cursor or 0, count):
        with _database().begin() as connection:
            connection.execute(sa.text("INSERT INTO applied VALUES (:job, :batch)"), {"job": job.id, "batch": batch})
            job.checkpoint(connection, batch + 1, total=count, cursor=batch + 1)
        time.sleep(pause_ms / 1000)
    _note("end")


def killer() -> None:
    _note("start")
    time.sleep(0.05)  # long enough for others to run beside it
    os.kill(os.getpid(), signal.SIGKILL)


def declare(queue: str, broker: dramatiq.Broker) -> list[dramatiq.Actor[Any, Any]]:
    """Make actors of all that for one queue."""
    made = [dramatiq.actor(fn, queue_name=queue, broker=broker, **PATIENT) for fn in (noop, nap, batches, killer)]
    made.append(dramatiq.actor(flaky, queue_name=queue, broker=broker, max_retries=5, min_backoff=30, max_backoff=200))
    made.append(dramatiq.actor(broken, queue_name=queue, broker=broker, max_retries=1, min_backoff=30, max_backoff=60))
    return made
