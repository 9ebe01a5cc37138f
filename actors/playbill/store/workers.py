"""Workers and their leases: one row for each process, renewed by its heartbeat, which answers what to cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.store.clock import after, now
from playbill.store.engine import Database
from playbill.store.sets import among
from playbill.store.values import HeartbeatReply, WorkerInfo, WorkerRow

#: States that no heartbeat revives: its jobs are being rescued, or it said that it ended.
LOST: Final = "lost"
ENDED: Final = "ended"
OVER: Final = (LOST, ENDED)


class Workers:
    """The rows of worker processes."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._table = database.tables.workers

    def register(self, info: WorkerInfo, *, lease_s: float) -> None:
        """See the port."""
        values: dict[str, Any] = {
            "id": info.id,
            "hostname": info.hostname,
            "pid": info.pid,
            "queues": list(info.queues),
            "actors": list(info.actors),
            "slots": info.slots,
            "version": info.version,
            "state": "starting",
            "running": [],
            "alone": None,
            "end_reason": None,
            "started_at": now(),
            "heartbeat_at": now(),
            "lease_expires_at": after(lease_s),
        }
        table = self._table
        with self._db.write() as connection:
            again = {name: value for name, value in values.items() if name != "id"}
            if not connection.execute(sa.update(table).where(table.c.id == info.id).values(again)).rowcount:
                connection.execute(sa.insert(table).values(values))

    def heartbeat(self, worker: str, *, lease_s: float, running: Sequence[str], state: str) -> HeartbeatReply:
        """See the port."""
        table, jobs, meta = self._table, self._db.tables.jobs, self._db.tables.meta
        renew = (
            sa.update(table)
            .where(table.c.id == worker, table.c.state.not_in(OVER))
            .values(heartbeat_at=now(), lease_expires_at=after(lease_s), running=list(running), state=state)
        )
        cancelling = sa.select(jobs.c.id).where(
            among(self._db, jobs.c.id, running), jobs.c.worker == worker, jobs.c.cancelling
        )
        with self._db.single() as connection:
            known = connection.execute(renew).rowcount > 0
            told = connection.execute(cancelling).scalars().all() if running else ()
            version = connection.execute(sa.select(meta.c.policy_version)).scalar_one()
        return HeartbeatReply(known=known, cancelling=tuple(sorted(told)), policy_version=version)

    def run_alone(self, worker: str, job_id: str | None) -> None:
        """See the port."""
        self._update(worker, alone=job_id)

    def end(self, worker: str, *, reason: str) -> None:
        """See the port."""
        self._update(worker, lease_expires_at=now(), state=ENDED, end_reason=reason)

    def live(self) -> list[WorkerRow]:
        """See the port."""
        table = self._table
        query = (
            sa.select(table)
            .where(table.c.lease_expires_at > now(), table.c.state.not_in(OVER))
            .order_by(table.c.started_at, table.c.id)
        )
        with self._db.read() as connection:
            return [_worker(row) for row in connection.execute(query)]

    def _update(self, worker: str, **values: Any) -> None:
        with self._db.single() as connection:
            connection.execute(sa.update(self._table).where(self._table.c.id == worker).values(**values))


def mark_lost(database: Database, connection: Connection) -> None:
    """From here on no heartbeat renews the leases that have ended: rescue has begun."""
    table = database.tables.workers
    ended = sa.select(table.c.id).where(table.c.lease_expires_at <= now(), table.c.state != LOST)
    ids = connection.execute(ended.order_by(table.c.id).with_for_update(skip_locked=True)).scalars().all()
    if ids:
        connection.execute(sa.update(table).where(among(database, table.c.id, ids)).values(state=LOST))


def remove_lost(database: Database, connection: Connection) -> None:
    """Remove lost workers whose jobs have all been taken back."""
    table, jobs = database.tables.workers, database.tables.jobs
    lost = connection.execute(sa.select(table.c.id).where(table.c.state == LOST)).scalars().all()
    if lost:
        owners = sa.select(jobs.c.worker).where(jobs.c.status == "processing", jobs.c.worker.is_not(None))
        connection.execute(sa.delete(table).where(among(database, table.c.id, lost), table.c.id.not_in(owners)))


def _worker(row: Any) -> WorkerRow:
    return WorkerRow(
        id=row.id,
        hostname=row.hostname,
        pid=row.pid,
        queues=tuple(row.queues),
        actors=tuple(row.actors),
        slots=row.slots,
        version=row.version,
        state=row.state,
        running=tuple(row.running),
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        lease_expires_at=row.lease_expires_at,
    )
