"""What people and other parts ask: jobs, live and archived, in one snapshot; figures of queues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from playbill.policy.states import JobStatus
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.sets import among
from playbill.store.tables import UtcTime
from playbill.store.values import ErrorRecord, JobFilter, JobRow, QueueCounts

_OWN = ("finished_at", "result", "cancelling")


class Reads:
    """Reads of jobs."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._names = [column.name for column in database.tables.archive.c if column.name not in _OWN]

    def get(self, job_id: str) -> JobRow | None:
        """See the port."""
        found = self.find(JobFilter(ids=(job_id,)), limit=1)
        return found[0] if found else None

    def find(self, where: JobFilter, *, limit: int) -> list[JobRow]:
        """See the port."""
        newest = [
            sa.select(part.order_by(sa.desc("created_at"), sa.desc("id")).limit(limit).subquery())
            for part in (self._live(where), self._ended(where))
        ]
        both = sa.union_all(*newest).subquery()
        query = sa.select(both).order_by(both.c.created_at.desc(), both.c.id.desc()).limit(limit)
        with self._db.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def count(self, where: JobFilter) -> int:
        """See the port."""
        tables = self._db.tables
        live = sa.select(sa.func.count()).select_from(tables.jobs).where(*matching(self._db, tables.jobs, where))
        ended = sa.select(sa.func.count()).select_from(tables.archive).where(*matching(self._db, tables.archive, where))
        with self._db.read() as connection:
            total: int = connection.execute(sa.select(live.scalar_subquery() + ended.scalar_subquery())).scalar_one()
            return total

    def queue_counts(self) -> list[QueueCounts]:
        """See the port."""
        jobs, archive, queues = self._db.tables.jobs, self._db.tables.archive, self._db.tables.queues
        ready = sa.and_(
            jobs.c.status.in_(("pending", "scheduled", "retrying")),
            sa.or_(jobs.c.due_at.is_(None), jobs.c.due_at <= now()),
        )
        oldest = sa.func.min(sa.case((ready, jobs.c.run_at), else_=sa.cast(sa.null(), UtcTime)))
        live = sa.select(jobs.c.queue, jobs.c.status, sa.func.count(), sa.type_coerce(oldest, UtcTime))
        ended = sa.select(archive.c.queue, archive.c.status, sa.func.count())
        counts: dict[str, dict[str, Any]] = {}
        with self._db.read() as connection:
            moment = connection.execute(sa.select(now())).scalar_one()
            for queue in connection.execute(sa.select(queues.c.queue)).scalars():
                counts[queue] = {}
            for queue, status, count, since in connection.execute(live.group_by(jobs.c.queue, jobs.c.status)):
                figures = counts.setdefault(queue, {})
                figures[status] = count
                if since is not None:
                    age = max(0.0, (moment - since).total_seconds())
                    figures["oldest_waiting_s"] = max(age, figures.get("oldest_waiting_s", 0.0))
            for queue, status, count in connection.execute(ended.group_by(archive.c.queue, archive.c.status)):
                counts.setdefault(queue, {})[status] = count
        return [QueueCounts(queue, **counts[queue]) for queue in sorted(counts)]

    def _live(self, where: JobFilter) -> sa.Select[Any]:
        jobs = self._db.tables.jobs
        return sa.select(
            *(jobs.c[name] for name in self._names),
            sa.cast(sa.null(), UtcTime).label("finished_at"),
            sa.cast(sa.null(), sa.Text).label("result"),
            jobs.c.cancelling.label("cancelling"),
        ).where(*matching(self._db, jobs, where))

    def _ended(self, where: JobFilter) -> sa.Select[Any]:
        archive = self._db.tables.archive
        return sa.select(
            *(archive.c[name] for name in self._names),
            archive.c.finished_at,
            archive.c.result,
            sa.false().label("cancelling"),
        ).where(*matching(self._db, archive, where))


def matching(database: Database, table: sa.Table, where: JobFilter) -> list[ColumnElement[bool]]:
    """The filter as conditions on the live table or the archive."""
    conditions: list[ColumnElement[bool]] = []
    if where.ids is not None:
        conditions.append(among(database, table.c.id, where.ids))
    if where.statuses is not None:
        conditions.append(table.c.status.in_([status.value for status in where.statuses]))
    for name in ("queue", "actor", "tenant", "key", "error_type"):
        wanted = getattr(where, name)
        if wanted is not None:
            conditions.append(table.c[name] == wanted)
    if where.tag is not None:
        conditions.append(_tagged(database, table, where.tag))
    if where.created_after is not None:
        conditions.append(table.c.created_at >= where.created_after)
    if where.created_before is not None:
        conditions.append(table.c.created_at < where.created_before)
    return conditions


def _tagged(database: Database, table: sa.Table, tag: str) -> ColumnElement[bool]:
    if database.on_postgres:
        return table.c.tags.op("@>")(sa.cast(sa.literal(json.dumps([tag]), sa.Text), table.c.tags.type))
    listed = sa.func.json_each(table.c.tags).table_valued("value")
    return sa.exists(sa.select(sa.literal(1)).select_from(listed).where(listed.c.value == tag))


def _job(row: Any) -> JobRow:
    error = None
    if row.error_type is not None:
        error = ErrorRecord(row.error_type, row.error_message or "", row.error_traceback or "")
    history: Sequence[Any] = row.history or ()
    return JobRow(
        id=row.id,
        queue=row.queue,
        actor=row.actor,
        status=JobStatus(row.status),
        epoch=row.epoch,
        attempt=row.attempt,
        priority=row.priority,
        tenant=row.tenant,
        key=row.key,
        tags=tuple(row.tags or ()),
        message=bytes(row.message),
        created_at=row.created_at,
        run_at=row.run_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker=row.worker,
        done=row.done,
        total=row.total,
        cursor=row.cursor,
        result=row.result,
        error=error,
        history=tuple(history),
        wait_reason=row.wait_reason,
        cancelling=bool(row.cancelling),
        crashes=row.crashes,
    )
