"""Which jobs of the store are due, oldest first.

Always asked queue by queue, since the index is led by the queue: an index by time alone would tempt the planner to walk
through the backlog of a busy queue in search of the few jobs of a quiet one.
"""
# ruff: noqa: S608 - only constants are put into the statements

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.store.clock import POSTGRES_NOW, SQLITE_NOW
from playbill.store.engine import Database

#: The oldest due jobs of some queues, locked.
OLDEST_POSTGRES: Final = f"""
SELECT due.id, due.due_at FROM unnest(CAST(:queues AS text[])) AS q (queue) CROSS JOIN LATERAL (
    SELECT j.id, j.due_at FROM playbill.jobs j
    WHERE j.queue = q.queue AND j.due_at <= {POSTGRES_NOW}
    ORDER BY j.due_at, j.id LIMIT :count FOR UPDATE SKIP LOCKED
) AS due ORDER BY due.due_at, due.id LIMIT :count
"""

OLDEST_SQLITE: Final = sa.text(
    f"SELECT id, due_at FROM playbill_jobs WHERE queue = :queue AND due_at <= {SQLITE_NOW}"
    " ORDER BY due_at, id LIMIT :count"
)

#: From queue to queue through the index, however many jobs each has.
_QUEUES: Final = """
WITH RECURSIVE waiting (queue) AS (
    SELECT min(queue) FROM {p}jobs WHERE due_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(j.queue) FROM {p}jobs j WHERE j.due_at IS NOT NULL AND j.queue > w.queue)
    FROM waiting w WHERE w.queue IS NOT NULL
)
SELECT w.queue FROM waiting w
WHERE EXISTS (SELECT 1 FROM {p}jobs j WHERE j.queue = w.queue AND j.due_at <= {now})
"""


def queues_with_due(database: Database) -> list[str]:
    """Queues that have due jobs in the store."""
    clock = POSTGRES_NOW if database.on_postgres else SQLITE_NOW
    query = sa.text(database.tables.sql(_QUEUES).replace("{now}", clock))
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def oldest_due(database: Database, connection: Connection, queues: Sequence[str], limit: int) -> list[str]:
    """Ids of the oldest due jobs of these queues; on PostgreSQL they are locked, and what others lock is left out."""
    if database.on_postgres:
        values = {"queues": list(queues), "count": limit}
        return [row.id for row in connection.execute(sa.text(OLDEST_POSTGRES), values)]
    found = [
        (row.due_at, row.id)
        for queue in queues
        for row in connection.execute(OLDEST_SQLITE, {"queue": queue, "count": limit})
    ]
    return [id_ for _, id_ in sorted(found)[:limit]]
