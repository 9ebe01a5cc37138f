"""What people do to jobs: cancel, redrive; and the messages that could not become jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.policy.states import WAITING, JobStatus
from playbill.store import enqueue_postgres, enqueue_sqlite
from playbill.store.archive import bury, cancelled
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.reads import matching
from playbill.store.requeue import put_in_outbox
from playbill.store.sessions import SqlAlchemyExecutor
from playbill.store.sets import among, locked_rows
from playbill.store.tables import UtcTime
from playbill.store.values import CancelAnswer, Handover, JobFilter, NewJob, ParkedMessage, Publishable, Redriven

REDRIVABLE: Final = (JobStatus.FAILED, JobStatus.CANCELLED)
_KEPT: Final = (
    "id", "queue", "actor", "priority", "tenant", "key", "tags", "message", "created_at", "done", "total", "cursor",
    "history", "policy_version",
)  # fmt: skip


class Control:
    """Commands on jobs."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._keys = enqueue_postgres.take_keys if database.on_postgres else enqueue_sqlite.take_keys

    def cancel(self, ids: Sequence[str]) -> dict[str, CancelAnswer]:
        """See the port."""
        answers = self._cancel(ids, wait=False)
        left = [id_ for id_, answer in answers.items() if answer is None]
        # Somebody holds these rows, perhaps a job's own open checkpoint: the others must not wait for them.
        answers |= self._cancel(left, wait=True)
        return {id_: answer or CancelAnswer.MISSING for id_, answer in answers.items()}

    def _cancel(self, ids: Sequence[str], *, wait: bool) -> dict[str, CancelAnswer | None]:
        """Cancel; None for an id of which no row could be locked, or of which there is none."""
        if not ids:
            return {}
        jobs, archive = self._db.tables.jobs, self._db.tables.archive
        query = sa.select(jobs).where(among(self._db, jobs.c.id, ids))
        answers: dict[str, CancelAnswer | None] = dict.fromkeys(ids)
        with self._db.write() as connection:
            rows = connection.execute(locked_rows(query, jobs, skip_locked=not wait)).all()
            moment = connection.execute(sa.select(now())).scalar_one()
            waiting = [row for row in rows if row.status in WAITING]
            running = [row.id for row in rows if row.status not in WAITING]
            bury(self._db, connection, [cancelled(row, moment) for row in waiting])
            if running:
                told = sa.update(jobs).where(among(self._db, jobs.c.id, running))
                connection.execute(told.values(cancelling=sa.true()))
            answers |= dict.fromkeys((row.id for row in waiting), CancelAnswer.CANCELLED)
            answers |= dict.fromkeys(running, CancelAnswer.CANCELLING)
            missing = [id_ for id_, answer in answers.items() if answer is None]
            if missing:
                ended = sa.select(archive.c.id).where(among(self._db, archive.c.id, missing))
                answers |= dict.fromkeys(connection.execute(ended).scalars(), CancelAnswer.TERMINAL)
        return answers

    def redrive(
        self, where: JobFilter, *, limit: int, handover: Handover, relay_after_s: float, dry_run: bool
    ) -> Redriven:
        """See the port."""
        archive = self._db.tables.archive
        wanted = REDRIVABLE if where.statuses is None else tuple(set(where.statuses) & set(REDRIVABLE))
        conditions = matching(self._db, archive, replace(where, statuses=wanted))
        counting = sa.select(sa.func.count()).select_from(archive).where(*conditions)
        if dry_run:
            with self._db.read() as connection:
                return Redriven(connection.execute(counting).scalar_one(), 0, 0)
        oldest = sa.select(archive).where(*conditions).order_by(archive.c.created_at, archive.c.id).limit(limit)
        with self._db.write() as connection:
            matched: int = connection.execute(counting).scalar_one()
            rows = connection.execute(oldest.with_for_update(skip_locked=True)).all()
            free = self._with_key(connection, rows)
            published = self._bring_back(connection, free, handover, relay_after_s)
            return Redriven(matched, len(free), len(rows) - len(free), tuple(published))

    def _with_key(self, connection: Connection, rows: Sequence[Any]) -> list[Any]:
        """Jobs without a key, or that got theirs back."""
        keyed = sorted((row for row in rows if row.key is not None), key=lambda row: (row.tenant, row.key))
        if not keyed:
            return list(rows)
        wanted = [NewJob(row.id, row.queue, row.actor, b"", tenant=row.tenant, key=row.key) for row in keyed]
        held: dict[str, tuple[str, int]] = {}
        again = {job.id for job in self._keys(SqlAlchemyExecutor(connection), wanted, held)}
        return [row for row in rows if row.id not in held and row.id not in again]

    def _bring_back(
        self, connection: Connection, rows: Sequence[Any], handover: Handover, relay_after_s: float
    ) -> list[Publishable]:
        if not rows:
            return []
        archive, jobs = self._db.tables.archive, self._db.tables.jobs
        ids = [row.id for row in rows]
        chosen = sa.and_(
            among(self._db, archive.c.id, ids), archive.c.status.in_([status.value for status in REDRIVABLE])
        )
        waits = now() if handover is Handover.STORE else sa.cast(sa.null(), UtcTime)
        fresh: dict[str, Any] = {
            "status": sa.literal(JobStatus.PENDING.value, sa.Text),
            "epoch": archive.c.epoch + 1,
            "attempt": sa.literal(0),
            "run_at": now(),
            "due_at": waits,
            "crashes": sa.literal(0),
            "suspect": sa.false(),
            "cancelling": sa.false(),
        }
        source = sa.select(*(archive.c[name] for name in _KEPT), *fresh.values()).where(chosen)
        connection.execute(sa.insert(jobs).from_select([*_KEPT, *fresh], source))
        connection.execute(sa.delete(archive).where(chosen))
        if handover is Handover.STORE:
            return []
        ready = [Publishable(row.id, row.epoch + 1, row.queue, bytes(row.message)) for row in rows]
        delay_s = relay_after_s if handover is Handover.BROKER else 0.0
        put_in_outbox(self._db, connection, ready, delay_s=delay_s)
        return ready if handover is Handover.BROKER else []


class Parking:
    """Messages that could not become jobs."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._table = database.tables.parked

    def park(self, messages: Sequence[ParkedMessage]) -> None:
        """See the port. Parking the same message again changes nothing."""
        unique = {message.id: message for message in messages}
        if not unique:
            return
        table = self._table
        with self._db.write() as connection:
            present = connection.execute(sa.select(table.c.id).where(among(self._db, table.c.id, list(unique))))
            for id_ in sorted(unique.keys() - set(present.scalars())):
                message = unique[id_]
                connection.execute(
                    sa.insert(table).values(
                        id=id_,
                        queue=message.queue,
                        body=message.body,
                        reason=message.reason,
                        headers=dict(message.headers),
                        parked_at=now(),
                    )
                )

    def parked(self, *, limit: int) -> list[ParkedMessage]:
        """See the port."""
        table = self._table
        query = sa.select(table).order_by(table.c.parked_at.desc(), table.c.id.desc()).limit(limit)
        with self._db.read() as connection:
            return [_parked(row) for row in connection.execute(query)]

    def unpark(self, ids: Sequence[str]) -> list[ParkedMessage]:
        """See the port."""
        if not ids:
            return []
        table = self._table
        query = sa.select(table).where(among(self._db, table.c.id, ids))
        with self._db.write() as connection:
            rows = connection.execute(locked_rows(query, table)).all()
            connection.execute(sa.delete(table).where(among(self._db, table.c.id, [row.id for row in rows])))
        return [_parked(row) for row in rows]


def _parked(row: Any) -> ParkedMessage:
    return ParkedMessage(row.id, row.queue, bytes(row.body), row.reason, row.headers, row.parked_at)
