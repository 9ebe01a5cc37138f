"""What the scheduler's leader does with jobs that wait: hand over what is due, publish what nobody confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.policy.states import JobStatus
from playbill.store.clock import after, now
from playbill.store.due import oldest_due, queues_with_due
from playbill.store.engine import Database
from playbill.store.leadership import leads
from playbill.store.requeue import put_in_outbox
from playbill.store.sets import among, locked_rows
from playbill.store.values import Publishable


class Scheduling:
    """Actions of the leader on waiting jobs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def release_due(self, *, limit: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """See the port."""
        jobs = self._db.tables.jobs
        queues = queues_with_due(self._db)  # asked without a write transaction: most ticks find nothing
        if not queues:
            return []
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return []
            ids = oldest_due(self._db, connection, queues, limit)
            named = among(self._db, jobs.c.id, ids)
            columns = (jobs.c.id, jobs.c.epoch, jobs.c.queue, jobs.c.message)
            rows = connection.execute(sa.select(*columns).where(named).order_by(jobs.c.due_at, jobs.c.id)).all()
            ready = sa.update(jobs).where(named)
            connection.execute(ready.values(status=JobStatus.PENDING.value, due_at=None, wait_reason=None))
            return self._boxed(connection, rows, relay_after_s)

    def take_outbox(self, *, limit: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """See the port."""
        jobs, outbox = self._db.tables.jobs, self._db.tables.outbox
        waits = sa.and_(
            jobs.c.epoch == outbox.c.epoch, jobs.c.status == JobStatus.PENDING.value, jobs.c.due_at.is_(None)
        )
        query = (
            sa.select(outbox.c.job_id, outbox.c.epoch, outbox.c.queue, jobs.c.message, waits.label("waits"))
            .select_from(outbox.outerjoin(jobs, jobs.c.id == outbox.c.job_id))
            .where(outbox.c.publish_at <= now())
            .order_by(outbox.c.publish_at, outbox.c.job_id)
            .limit(limit)
            .with_for_update(of=outbox, skip_locked=True)
        )
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return []
            rows = connection.execute(query).all()
            over = [row.job_id for row in rows if not row.waits]
            ready = [Publishable(row.job_id, row.epoch, row.queue, bytes(row.message)) for row in rows if row.waits]
            if over:
                # Looked at once more: a row may be of a newer epoch than the job that was read beside it.
                needed = sa.exists().where(jobs.c.id == outbox.c.job_id, waits)
                connection.execute(sa.delete(outbox).where(among(self._db, outbox.c.job_id, over), ~needed))
            if ready:
                later = sa.update(outbox).where(among(self._db, outbox.c.job_id, [job.id for job in ready]))
                connection.execute(later.values(publish_at=after(relay_after_s)))
        return ready

    def missing(self, queue: str, *, excess: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """See the port."""
        if excess <= 0:
            return []
        jobs = self._db.tables.jobs
        query = (
            sa.select(jobs.c.id, jobs.c.epoch, jobs.c.queue, jobs.c.message)
            .where(jobs.c.queue == queue, *self._with_broker())
            .order_by(jobs.c.run_at, jobs.c.id)
            .limit(excess)
            .with_for_update(of=jobs, skip_locked=True)
        )
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return []
            return self._boxed(connection, connection.execute(query).all(), relay_after_s)

    def awaiting_broker(self) -> dict[str, int]:
        """See the port."""
        jobs = self._db.tables.jobs
        query = sa.select(jobs.c.queue, sa.func.count()).where(*self._with_broker()).group_by(jobs.c.queue)
        with self._db.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def to_store(self, *, limit: int, leader: str) -> int:
        """See the port."""
        jobs, outbox = self._db.tables.jobs, self._db.tables.outbox
        query = sa.select(jobs.c.id).where(jobs.c.due_at.is_(None), jobs.c.status == JobStatus.PENDING.value)
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return 0
            ids = connection.execute(locked_rows(query, jobs, skip_locked=True).limit(limit)).scalars().all()
            if ids:
                connection.execute(sa.update(jobs).where(among(self._db, jobs.c.id, ids)).values(due_at=now()))
                connection.execute(sa.delete(outbox).where(among(self._db, outbox.c.job_id, ids)))
        return len(ids)

    def _with_broker(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Pending jobs of which the broker has confirmed a message."""
        jobs, outbox = self._db.tables.jobs, self._db.tables.outbox
        boxed = sa.exists().where(outbox.c.job_id == jobs.c.id)
        return (jobs.c.status == JobStatus.PENDING.value, jobs.c.due_at.is_(None), ~boxed)

    def _boxed(self, connection: Connection, rows: Sequence[Any], relay_after_s: float) -> list[Publishable]:
        ready = [Publishable(row.id, row.epoch, row.queue, bytes(row.message)) for row in rows]
        put_in_outbox(self._db, connection, sorted(ready, key=lambda job: job.id), delay_s=relay_after_s)
        return ready
