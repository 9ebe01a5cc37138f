"""Attempts end: by groups, each group in one transaction, each ending only if its fence still holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.policy.states import JobStatus
from playbill.store import finish_postgres
from playbill.store.archive import Ending, bury, cut, with_entry
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.enqueue import Enqueue
from playbill.store.requeue import Requeue, requeue
from playbill.store.rollups import Tally, add_rollups
from playbill.store.sessions import SqlAlchemyExecutor
from playbill.store.sets import among, locked_rows
from playbill.store.values import Finish, Finished, Handover, NewJob, Outcome, Publishable

_TERMINAL: Final = {
    Outcome.COMPLETED: JobStatus.COMPLETED,
    Outcome.FAILED: JobStatus.FAILED,
    Outcome.CANCELLED: JobStatus.CANCELLED,
}


class Finishing:
    """Ends attempts."""

    def __init__(self, database: Database, enqueue: Enqueue) -> None:
        self._db = database
        self._enqueue = enqueue

    def finish(self, finishes: Sequence[Finish], *, handover: Handover, relay_after_s: float) -> Finished:
        """See the port."""
        finishes = list({item.id: item for item in reversed(finishes)}.values())  # an attempt ends once: as said first
        if not finishes:
            return Finished(frozenset())
        if self._db.on_postgres and all(_is_plain(item) for item in finishes):
            with self._db.single() as connection:
                applied = finish_postgres.end_jobs(connection, [(item, _TERMINAL[item.outcome]) for item in finishes])
            published: list[Publishable] = []
        else:
            with self._db.write() as connection:
                applied, published = self._finish_on(connection, finishes, handover, relay_after_s)
        lost = [item for item in finishes if item.id not in applied]
        busy: set[str] = set()
        if lost:
            applied |= self._applied_before(lost)
            busy = self._still_owned([item for item in lost if item.id not in applied])
        return Finished(frozenset(applied), tuple(published), frozenset(busy))

    def _finish_on(
        self, connection: Connection, finishes: Sequence[Finish], handover: Handover, relay_after_s: float
    ) -> tuple[set[str], list[Publishable]]:
        terminal = [item for item in finishes if item.outcome in _TERMINAL]
        again = [item for item in finishes if item.outcome not in _TERMINAL]
        applied: set[str] = set()
        published: list[Publishable] = []
        # One pass over the locks of all, in the order of the ids, whatever happens to each afterwards.
        rows = self._lock(connection, finishes)
        moment: datetime = connection.execute(sa.select(now())).scalar_one()
        if again:
            done, published = self._send_back(
                connection, again, rows, moment=moment, handover=handover, relay_after_s=relay_after_s
            )
            applied |= done
        if terminal and self._db.on_postgres:
            applied |= finish_postgres.end_jobs(connection, [(item, _TERMINAL[item.outcome]) for item in terminal])
        elif terminal:
            applied |= self._end(connection, terminal, rows, moment)
        ended = [item for item in terminal if item.id in applied]
        following = [job for item in ended for job in item.follow_ups] + self._count_groups(connection, ended)
        published += self._insert_following(connection, following, handover, relay_after_s)
        return applied, published

    def _lock(self, connection: Connection, finishes: Sequence[Finish]) -> dict[str, Any]:
        """The rows whose fence holds, locked; those that others hold are left out, so that no end waits for another."""
        jobs = self._db.tables.jobs
        query = sa.select(jobs).where(among(self._db, jobs.c.id, [item.id for item in finishes]))
        found = {row.id: row for row in connection.execute(locked_rows(query, jobs, skip_locked=True))}
        return {
            item.id: found[item.id]
            for item in finishes
            if item.id in found and (found[item.id].epoch, found[item.id].token) == (item.epoch, item.token)
        }

    def _end(
        self, connection: Connection, items: Sequence[Finish], rows: Mapping[str, Any], moment: datetime
    ) -> set[str]:
        """Terminal outcomes where no single statement does it all."""
        endings, tally = [], Tally(moment)
        for item in items:
            row = rows.get(item.id)
            if row is not None:
                status = _TERMINAL[item.outcome]
                endings.append(_ending(item, row, status, moment))
                tally.add(row, status.value, item.run_ms, item.wait_ms)
        bury(self._db, connection, endings)
        add_rollups(self._db, connection, tally)
        return {ending.row.id for ending in endings}

    def _send_back(
        self,
        connection: Connection,
        items: Sequence[Finish],
        rows: Mapping[str, Any],
        *,
        moment: datetime,
        handover: Handover,
        relay_after_s: float,
    ) -> tuple[set[str], list[Publishable]]:
        """RETRY and RELEASE. A job that is being cancelled is not run again: it ends here."""
        back, endings, tally = [], [], Tally(moment)
        for item in items:
            row = rows.get(item.id)
            if row is None:
                continue
            if row.cancelling:
                endings.append(_ending(item, row, JobStatus.CANCELLED, moment))
                tally.add(row, "cancelled", item.run_ms, item.wait_ms)
            elif item.outcome is Outcome.RETRY:
                back.append(_retry(item, row, moment))
                tally.add(row, "retried", item.run_ms, item.wait_ms)
            else:
                back.append(_release(item, row))
        published = requeue(self._db, connection, back, handover=handover, relay_after_s=relay_after_s)
        bury(self._db, connection, endings)
        add_rollups(self._db, connection, tally)
        return {each.row.id for each in back} | {each.row.id for each in endings}, published

    def _count_groups(self, connection: Connection, ended: Sequence[Finish]) -> list[NewJob]:
        """Count completed members down; returns the callbacks of groups that are complete now."""
        members = [item for item in ended if item.group is not None and item.outcome is Outcome.COMPLETED]
        if not members:
            return []
        groups = self._db.tables.groups
        callbacks: list[NewJob] = []
        counts = Counter(item.group for item in members)
        for group in sorted(group for group in counts if group is not None):
            left = connection.execute(
                sa.update(groups)
                .where(groups.c.id == group)
                .values(remaining=groups.c.remaining - counts[group])
                .returning(groups.c.remaining)
            ).scalar_one_or_none()
            if left is not None and left <= 0:
                connection.execute(sa.delete(groups).where(groups.c.id == group))
                callbacks += next(item.group_callbacks for item in members if item.group == group)
        return callbacks

    def _insert_following(
        self, connection: Connection, jobs: Sequence[NewJob], handover: Handover, relay_after_s: float
    ) -> list[Publishable]:
        """Jobs that come of an ending. One that exists already came of the same ending before."""
        if not jobs:
            return []
        inserted = self._enqueue.insert_unless_known(
            SqlAlchemyExecutor(connection), jobs, handover=handover, relay_after_s=relay_after_s
        )
        by_id = {job.id: job for job in jobs}
        return [
            Publishable(done.id, done.epoch, by_id[done.id].queue, by_id[done.id].message)
            for done in inserted
            if done.publish
        ]

    def _applied_before(self, items: Sequence[Finish]) -> set[str]:
        """After an ambiguous commit the caller asks again: what is stored under its token was applied then."""
        jobs, archive = self._db.tables.jobs, self._db.tables.archive
        by_id = {item.id: item for item in items}
        ids = list(by_id)
        ended = sa.select(archive.c.id, archive.c.epoch, archive.c.token).where(among(self._db, archive.c.id, ids))
        back = sa.select(jobs.c.id, jobs.c.epoch - 1, jobs.c.last_token).where(among(self._db, jobs.c.id, ids))
        with self._db.read() as connection:
            rows = connection.execute(sa.union_all(ended, back)).all()
        return {id_ for id_, epoch, token in rows if (epoch, token) == (by_id[id_].epoch, by_id[id_].token)}

    def _still_owned(self, items: Sequence[Finish]) -> set[str]:
        """Ids whose fence stands though their end did not apply: their rows were locked."""
        if not items:
            return set()
        jobs = self._db.tables.jobs
        fences = {item.id: (item.epoch, item.token) for item in items}
        query = sa.select(jobs.c.id, jobs.c.epoch, jobs.c.token).where(among(self._db, jobs.c.id, list(fences)))
        with self._db.read() as connection:
            return {id_ for id_, epoch, token in connection.execute(query) if (epoch, token) == fences[id_]}


def _is_plain(item: Finish) -> bool:
    return item.outcome in _TERMINAL and not item.follow_ups and item.group is None


def _ending(item: Finish, row: Any, status: JobStatus, moment: datetime) -> Ending:
    error = cut(item.error) if item.error is not None else None
    completed = status is JobStatus.COMPLETED
    return Ending(
        row,
        status,
        error=error,
        history=None if completed else with_entry(row, outcome=status.value, at=moment, error=error),
        result=item.result,
        token=item.token,
        done=item.done,
        total=item.total,
        policy_version=item.policy_version,
    )


def _retry(item: Finish, row: Any, moment: datetime) -> Requeue:
    error = cut(item.error) if item.error is not None else None
    return Requeue(
        row,
        attempt=row.attempt,
        delay_s=item.delay_s,
        waits_as=JobStatus.RETRYING,
        token=item.token,
        wait_reason=item.wait_reason,
        error=error,
        history=with_entry(row, outcome=Outcome.RETRY.value, at=moment, error=error),
        done=item.done,
        total=item.total,
    )


def _release(item: Finish, row: Any) -> Requeue:
    return Requeue(
        row,
        attempt=row.attempt - 1,
        delay_s=item.delay_s,
        token=item.token,
        wait_reason=item.wait_reason,
        suspect=row.suspect,
        done=item.done,
        total=item.total,
    )
