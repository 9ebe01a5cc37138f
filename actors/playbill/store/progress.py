"""Progress of running jobs: in passing (lossy), or as a checkpoint in the caller's own transaction (exact)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from playbill.errors import FenceLostError, InvalidInputError, JobCancelled
from playbill.store.engine import Database
from playbill.store.failures import translated
from playbill.store.sessions import CallerConnections
from playbill.store.values import ProgressUpdate

#: A row that is locked (by its own open checkpoint, most likely) is left out: the next update is near.
_PROGRESS_POSTGRES: Final = sa.text("""
WITH input AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS text[]), CAST(:epochs AS bigint[]), CAST(:tokens AS bigint[]), CAST(:dones AS bigint[]),
        CAST(:totals AS bigint[])
    ) AS i (id, epoch, token, done, total)
),
free AS MATERIALIZED (
    SELECT found.ctid FROM (SELECT * FROM input ORDER BY id COLLATE "C") AS i CROSS JOIN LATERAL (
        SELECT j.ctid FROM playbill.jobs j WHERE j.id = i.id AND j.epoch = i.epoch AND j.token = i.token
        FOR UPDATE SKIP LOCKED
    ) AS found
)
UPDATE playbill.jobs j SET done = i.done, total = COALESCE(i.total, j.total)
FROM input i WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM free)) AND i.id = j.id
""")
_PROGRESS_SQLITE: Final = sa.text(
    "UPDATE playbill_jobs SET done = :done, total = COALESCE(:total, total)"
    " WHERE id = :id AND epoch = :epoch AND token = :token"
)
_CHECKPOINT: Final = (
    "UPDATE {p}jobs SET done = :done, total = COALESCE(CAST(:total AS BIGINT), total), cursor = {cursor}"
    " WHERE id = :id AND epoch = :epoch AND token = :token RETURNING cancelling"
)


class Progress:
    """Progress writes."""

    def __init__(self, database: Database, callers: CallerConnections) -> None:
        self._db = database
        self._callers = callers
        cursor = "CAST(CAST(:cursor AS text) AS jsonb)" if database.on_postgres else ":cursor"
        self._checkpoint = sa.text(database.tables.sql(_CHECKPOINT).replace("{cursor}", cursor))

    def progress(self, updates: Sequence[ProgressUpdate]) -> None:
        """See the port."""
        if not updates:
            return
        latest = {update.id: update for update in updates}.values()
        with self._db.single() as connection:
            if self._db.on_postgres:
                connection.execute(_PROGRESS_POSTGRES, _arrays(latest))
            else:
                connection.execute(_PROGRESS_SQLITE, [_values(update) for update in latest])

    def checkpoint(
        self, connection: Any, *, job_id: str, epoch: int, token: int, done: int, total: int | None, cursor: Any
    ) -> None:
        """See the port."""
        values = {"id": job_id, "epoch": epoch, "token": token, "done": done, "total": total}
        values["cursor"] = _encoded(cursor)
        executor = self._callers.executor(connection)
        with translated(self._db.where):
            rows = executor.rows(self._checkpoint, values)
        if not rows:
            raise FenceLostError(f"this attempt no longer owns job {job_id}: roll back and stop")
        if rows[0][0]:
            raise JobCancelled(job_id, f"job {job_id} is being cancelled: roll back and stop")


def _encoded(cursor: Any) -> str | None:
    if cursor is None:
        return None
    try:
        return json.dumps(cursor, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError("cursor", f"must be a JSON value: {error}") from None


def _values(update: ProgressUpdate) -> dict[str, Any]:
    return {
        "id": update.id,
        "epoch": update.epoch,
        "token": update.token,
        "done": update.done,
        "total": update.total,
    }


def _arrays(updates: Any) -> dict[str, Any]:
    rows = [_values(update) for update in updates]
    return {f"{name}s": [row[name] for row in rows] for name in ("id", "epoch", "token", "done", "total")}
