"""Counts by minute, queue, actor and worker: each worker adds to rows of its own, the scheduler merges past minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.store.engine import Database

COUNTS: Final = ("completed", "failed", "cancelled", "retried", "run_ms", "run_ms_squared", "wait_ms")


@dataclass(slots=True)
class Tally:
    """What one batch of endings adds."""

    moment: datetime
    rows: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)

    def add(self, row: Any, outcome: str, run_ms: float, wait_ms: float) -> None:
        """Count one ended attempt. ``outcome`` is a terminal status or ``retried``."""
        counts = self.rows.setdefault((row.queue, row.actor, row.worker or ""), dict.fromkeys(COUNTS, 0))
        counts[outcome] += 1
        counts["run_ms"] += run_ms
        counts["run_ms_squared"] += run_ms * run_ms
        counts["wait_ms"] += wait_ms


def add_rollups(database: Database, connection: Connection, tally: Tally) -> None:
    """Add the tally to the rollups."""
    minute = int(tally.moment.timestamp() // 60)
    if tally.rows:
        values = [
            {"minute": minute, "queue": queue, "actor": actor, "worker": worker, **counts}
            for (queue, actor, worker), counts in sorted(tally.rows.items())
        ]
        connection.execute(sa.text(_upsert(database)), values)


def _upsert(database: Database) -> str:
    table = f"{database.tables.prefix}rollups"
    names = ("minute", "queue", "actor", "worker", *COUNTS)
    added = ", ".join(f"{name} = r.{name} + excluded.{name}" for name in COUNTS)
    return (
        f"INSERT INTO {table} AS r ({', '.join(names)})"  # noqa: S608 - constants
        f" VALUES ({', '.join(':' + name for name in names)})"
        f" ON CONFLICT (minute, queue, actor, worker) DO UPDATE SET {added}"
    )


def add_merged(database: Database, connection: Connection, rows: Sequence[Any]) -> None:
    """Add rows of single workers to the row of all (worker '')."""
    merged: dict[tuple[int, str, str], dict[str, float]] = {}
    for row in rows:
        counts = merged.setdefault((row.minute, row.queue, row.actor), dict.fromkeys(COUNTS, 0))
        for name in COUNTS:
            counts[name] += getattr(row, name)
    if merged:
        values = [
            {"minute": minute, "queue": queue, "actor": actor, "worker": "", **counts}
            for (minute, queue, actor), counts in sorted(merged.items())
        ]
        connection.execute(sa.text(_upsert(database)), values)
