"""What must not stay: jobs that waited too long, ended jobs past their retention, rollups of single workers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.policy.states import WAITING, JobStatus
from playbill.spec.duration import parse_duration
from playbill.store.archive import Ending, bury, with_entry
from playbill.store.clock import after, now
from playbill.store.engine import Database
from playbill.store.leadership import leads
from playbill.store.partitions import CLASSES, drop_partition, ensure_partitions, partitions
from playbill.store.policies import Policies
from playbill.store.rollups import COUNTS, add_merged
from playbill.store.sets import locked_rows
from playbill.store.values import ErrorRecord, QueuePolicy

EXPIRED: Final = "Expired"
COMPLETED_S: Final = 86_400.0
ENDED_S: Final = 7 * 86_400.0
ROLLUPS_S: Final = 30 * 86_400.0

_STATUSES: Final = {"completed": ("completed",), "ended": ("failed", "cancelled")}
#: The name of each class of ended jobs in a policy's ``retention``, and its default.
_RETENTION: Final = {"completed": ("completed", COMPLETED_S), "ended": ("failed", ENDED_S)}


class Retention:
    """Actions of the leader against growth."""

    def __init__(self, database: Database, policies: Policies) -> None:
        self._db = database
        self._policies = policies

    def expire(self, *, limit: int, leader: str) -> int:
        """See the port."""
        ages = {
            queue: policy.spec["maxAge"] for queue, policy in self._policies.all().items() if "maxAge" in policy.spec
        }
        if not ages:
            return 0
        expired = 0
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return 0
            moment = connection.execute(sa.select(now())).scalar_one()
            for queue, age in sorted(ages.items()):
                expired += self._expire_queue(connection, queue, str(age), limit - expired, moment)
        return expired

    def _expire_queue(self, connection: Connection, queue: str, age: str, limit: int, moment: datetime) -> int:
        """The age counts from the time when the job was due: a job for tomorrow is not old today."""
        jobs = self._db.tables.jobs
        query = sa.select(jobs).where(
            jobs.c.queue == queue,
            jobs.c.status.in_([status.value for status in WAITING]),
            jobs.c.run_at <= moment - timedelta(seconds=parse_duration(age)),
        )
        if limit <= 0:
            return 0
        rows = connection.execute(locked_rows(query, jobs, skip_locked=True).limit(limit)).all()
        error = ErrorRecord(EXPIRED, f"waited longer than {age}, the maxAge of queue {queue}")
        bury(self._db, connection, [_expired(row, error, moment) for row in rows])
        return len(rows)

    def purge(self, *, limit: int, leader: str) -> int:
        """See the port."""
        policies = self._policies.all()
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return 0
            moment = connection.execute(sa.select(now())).scalar_one()
            self._delete_small(connection)
            gone = self._drop_partitions(connection, policies, moment) if self._db.on_postgres else 0
            for kind in CLASSES:
                if gone < limit:
                    gone += self._delete_rows(connection, kind, policies, moment, limit - gone)
        return gone

    def _delete_small(self, connection: Connection) -> None:
        groups, rollups = self._db.tables.groups, self._db.tables.rollups
        connection.execute(sa.delete(groups).where(groups.c.expires_at <= now()))
        moment: datetime = connection.execute(sa.select(after(-ROLLUPS_S))).scalar_one()
        connection.execute(sa.delete(rollups).where(rollups.c.minute < int(moment.timestamp() // 60)))

    def _drop_partitions(self, connection: Connection, policies: Mapping[str, QueuePolicy], moment: datetime) -> int:
        """Whole days that no queue keeps any more. A short wait for the lock: readers queue up behind us."""
        connection.execute(sa.text("SELECT set_config('lock_timeout', '1s', true)"))
        ensure_partitions(connection)
        gone = 0
        for kind in CLASSES:
            longest = max([_kept_s(policy, kind) for policy in policies.values()] + [_RETENTION[kind][1]])
            last = (moment - timedelta(seconds=longest)).astimezone(UTC).date()
            for day, name in sorted(partitions(connection, kind).items()):
                if day < last:
                    gone += drop_partition(connection, name)
        return gone

    def _delete_rows(
        self, connection: Connection, kind: str, policies: Mapping[str, QueuePolicy], moment: datetime, limit: int
    ) -> int:
        """Rows past the retention of their queue, oldest days first."""
        archive = self._db.tables.archive
        own = {queue: _kept_s(policy, kind) for queue, policy in policies.items()}
        age: sa.ColumnElement[Any] = sa.literal(moment - timedelta(seconds=_RETENTION[kind][1]), archive.c.run_at.type)
        if own:
            cutoffs = {queue: moment - timedelta(seconds=kept) for queue, kept in own.items()}
            age = sa.case(
                *((archive.c.queue == queue, sa.literal(cut, archive.c.run_at.type)) for queue, cut in cutoffs.items()),
                else_=age,
            )
        newest = moment - timedelta(seconds=min([*own.values(), _RETENTION[kind][1]]))
        past = sa.and_(
            archive.c.status.in_(_STATUSES[kind]), archive.c.finished_at <= newest, archive.c.finished_at <= age
        )
        rows = connection.execute(
            sa.select(archive.c.id, archive.c.finished_at).where(past).order_by(archive.c.finished_at).limit(limit)
        ).all()
        for at in range(0, len(rows), 500):
            pairs = [(row.id, row.finished_at) for row in rows[at : at + 500]]
            connection.execute(
                sa.delete(archive).where(
                    archive.c.status.in_(_STATUSES[kind]), sa.tuple_(archive.c.id, archive.c.finished_at).in_(pairs)
                )
            )
        return len(rows)

    def merge_rollups(self, *, leader: str) -> int:
        """See the port."""
        rollups = self._db.tables.rollups
        with self._db.write() as connection:
            if not leads(self._db, connection, leader):
                return 0
            moment = connection.execute(sa.select(now())).scalar_one()
            past = sa.and_(rollups.c.minute < int(moment.timestamp() // 60), rollups.c.worker != "")
            columns = [rollups.c.minute, rollups.c.queue, rollups.c.actor]
            taken = connection.execute(
                sa.delete(rollups).where(past).returning(*columns, *(rollups.c[name] for name in COUNTS))
            ).all()
            add_merged(self._db, connection, taken)
        return len(taken)


def _kept_s(policy: QueuePolicy, kind: str) -> float:
    name, default = _RETENTION[kind]
    given = policy.spec.get("retention", {}).get(name)
    return parse_duration(given) if given is not None else default


def _expired(row: Any, error: ErrorRecord, moment: datetime) -> Ending:
    history = with_entry(row, outcome=JobStatus.FAILED.value, at=moment, error=error)
    return Ending(row, JobStatus.FAILED, error=error, history=history, bump_epoch=True)
