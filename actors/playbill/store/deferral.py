"""Jobs that nobody here can run yet: back to the store with a reason, and failed when that has gone on for too long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from playbill.policy.states import WAITING, JobStatus
from playbill.store.archive import Ending, bury, cancelled, with_entry
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.requeue import Requeue, requeue
from playbill.store.sets import among, locked_rows
from playbill.store.values import ClaimRef, ErrorRecord, Handover

UNKNOWN_ACTOR: Final = "UnknownActor"


def defer(
    database: Database,
    refs: Sequence[ClaimRef],
    *,
    delay_s: float,
    reason: str,
    fail_after_s: float,
    handover: Handover,
) -> None:
    """See the port."""
    epochs = {ref.id: ref.epoch for ref in refs}
    if not epochs:
        return
    jobs = database.tables.jobs
    query = sa.select(jobs).where(among(database, jobs.c.id, list(epochs)))
    with database.write() as connection:
        moment = connection.execute(sa.select(now())).scalar_one()
        rows = [
            row
            for row in connection.execute(locked_rows(query, jobs))
            if row.epoch == epochs[row.id] and _may_defer(row, handover)
        ]
        live = [row for row in rows if not row.cancelling]
        over = [row for row in live if _deferred_s(row, moment) >= fail_after_s]
        back = [row for row in live if _deferred_s(row, moment) < fail_after_s]
        error = ErrorRecord(UNKNOWN_ACTOR, reason)
        bury(database, connection, [_failed(row, error, moment) for row in over])
        bury(database, connection, [cancelled(row, moment) for row in rows if row.cancelling])
        items = [
            Requeue(row, row.attempt - _claimed(row), delay_s, wait_reason=reason, suspect=row.suspect, deferred=True)
            for row in back
        ]
        requeue(database, connection, items, handover=handover, relay_after_s=0.0)


def _may_defer(row: Any, handover: Handover) -> bool:
    """Without a broker a worker learns what a job is only after its claim, and no stray message can name the job."""
    return row.status in WAITING or handover is Handover.STORE


def _claimed(row: Any) -> int:
    return 1 if row.status == JobStatus.PROCESSING else 0


def _deferred_s(row: Any, moment: datetime) -> float:
    return (moment - row.deferred_at).total_seconds() if row.deferred_at is not None else 0.0


def _failed(row: Any, error: ErrorRecord, moment: datetime) -> Ending:
    history = with_entry(row, outcome=JobStatus.FAILED.value, at=moment, error=error)
    return Ending(row, JobStatus.FAILED, error=error, history=history, bump_epoch=True)
