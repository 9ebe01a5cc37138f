"""The actor of the latency benchmark: writes down when it started, after the fact, in groups."""

from __future__ import annotations

import os
import threading
import time

import dramatiq
import psycopg

_starts: list[tuple[float, float]] = []
_lock = threading.Lock()


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def stamp(sent: float) -> None:
    """Note the moment."""
    with _lock:
        _starts.append((sent, time.time()))
        if len(_starts) == 1:
            threading.Timer(1.0, _write).start()


def _write() -> None:
    with _lock:
        rows, _starts[:] = list(_starts), []
    with psycopg.connect(os.environ["BENCH_STARTS"], autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO starts VALUES (%s, %s)", rows)
