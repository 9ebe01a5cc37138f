"""Jobs of dead workers come back. What ran with others is only suspected; what ran alone is counted."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from playbill.policy.states import JobStatus
from playbill.store.archive import Ending, bury, with_entry
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.leadership import leads
from playbill.store.requeue import Requeue, requeue
from playbill.store.rollups import Tally, add_rollups
from playbill.store.sets import locked_rows
from playbill.store.values import ErrorRecord, Handover, Publishable, Rescued
from playbill.store.workers import LOST, mark_lost, remove_lost

#: Time between two looks for jobs whose worker has no row at all, which takes a pass over the live table, s.
ORPHANS_EVERY_S: Final = 60.0

POISON: Final = "PoisonJob"
WORKER_LOST: Final = "WorkerLost"
_NO_REASON: Final = "its worker vanished: no heartbeat for a whole lease"


class Rescue:
    """Rescues, at the price of one indexed look while every worker is well."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._orphans_at = -math.inf

    def rescue(
        self, *, poison_limit: int, limit: int, handover: Handover, relay_after_s: float, leader: str
    ) -> list[Rescued]:
        """See the port."""
        moment = time.monotonic()
        if moment < self._orphans_at and not self._any_lost():
            return []
        rescued = rescue(
            self._db,
            poison_limit=poison_limit,
            limit=limit,
            handover=handover,
            relay_after_s=relay_after_s,
            leader=leader,
        )
        self._orphans_at = moment + ORPHANS_EVERY_S
        return rescued

    def _any_lost(self) -> bool:
        workers = self._db.tables.workers
        with self._db.read() as connection:
            query = sa.select(workers.c.id).where(workers.c.lease_expires_at <= now()).limit(1)
            return connection.execute(query).first() is not None


def rescue(
    database: Database, *, poison_limit: int, limit: int, handover: Handover, relay_after_s: float, leader: str
) -> list[Rescued]:
    """See the port."""
    jobs, workers = database.tables.jobs, database.tables.workers
    query = (
        sa.select(jobs, workers.c.alone, workers.c.end_reason)
        .select_from(jobs.outerjoin(workers, workers.c.id == jobs.c.worker))
        .where(
            jobs.c.status == JobStatus.PROCESSING.value,
            sa.or_(workers.c.id.is_(None), workers.c.state == LOST),  # a lease renewed meanwhile is not lost
        )
    )
    with database.write() as connection:
        if not leads(database, connection, leader):
            return []
        mark_lost(database, connection)
        rows = connection.execute(locked_rows(query, jobs, skip_locked=True).limit(limit)).all()
        moment: datetime = connection.execute(sa.select(now())).scalar_one()
        back, endings, tally = [], [], Tally(moment)
        for row in rows:
            verdict = _judge(row, poison_limit, moment)
            if isinstance(verdict, Requeue):
                back.append(verdict)
            else:
                endings.append(verdict)
                tally.add(row, verdict.status.value, 0.0, 0.0)
        published = requeue(database, connection, back, handover=handover, relay_after_s=relay_after_s)
        bury(database, connection, endings)
        add_rollups(database, connection, tally)
        remove_lost(database, connection)
    by_id = {job.id: job for job in published}
    failed = {ending.row.id for ending in endings if ending.status is JobStatus.FAILED}
    return [_rescued(row, row.id in failed, by_id.get(row.id)) for row in rows]


def _judge(row: Any, poison_limit: int, moment: datetime) -> Requeue | Ending:
    """What becomes of one job whose worker is gone."""
    reason = row.end_reason or _NO_REASON
    lost = ErrorRecord(WORKER_LOST, reason)
    if row.cancelling:
        history = with_entry(row, outcome=JobStatus.CANCELLED.value, at=moment, error=lost)
        return Ending(row, JobStatus.CANCELLED, history=history, bump_epoch=True)
    crashes = row.crashes + (row.alone == row.id)
    if crashes > row.crashes and crashes >= poison_limit:
        error = ErrorRecord(POISON, f"killed its worker {crashes} times while it ran alone; the last time: {reason}")
        history = with_entry(row, outcome=JobStatus.FAILED.value, at=moment, error=error)
        return Ending(row, JobStatus.FAILED, error=error, history=history, bump_epoch=True, crashes=crashes)
    history = with_entry(row, outcome="rescued", at=moment, error=lost)
    return Requeue(
        row, attempt=row.attempt - 1, history=history, suspect=True, crashes=crashes, wait_reason=f"rescued: {reason}"
    )


def _rescued(row: Any, failed: bool, publish: Publishable | None) -> Rescued:
    return Rescued(row.id, row.queue, row.worker or "", failed, publish)
