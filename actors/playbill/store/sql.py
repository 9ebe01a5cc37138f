"""The store on SQL: one object that answers the whole port, composed of parts by idea."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from playbill.errors import StoreNotMigratedError, StoreTooNewError
from playbill.settings import Settings
from playbill.store.claims import Claims
from playbill.store.clock import after, now
from playbill.store.control import Control, Parking
from playbill.store.deferral import defer
from playbill.store.engine import Database
from playbill.store.enqueue import Enqueue
from playbill.store.failures import NOT_MIGRATED
from playbill.store.finish import Finishing
from playbill.store.leadership import Leadership
from playbill.store.policies import Policies
from playbill.store.progress import Progress
from playbill.store.reads import Reads
from playbill.store.rescue import Rescue
from playbill.store.retention import Retention
from playbill.store.scheduling import Scheduling
from playbill.store.sessions import CallerConnections
from playbill.store.values import (
    CancelAnswer,
    Claimed,
    ClaimRef,
    ClaimResult,
    Finish,
    Finished,
    Handover,
    HeartbeatReply,
    Inserted,
    JobFilter,
    JobRow,
    NewJob,
    ParkedMessage,
    ProgressUpdate,
    Publishable,
    QueueCounts,
    QueuePolicy,
    Redriven,
    Rescued,
    WorkerInfo,
    WorkerRow,
)
from playbill.store.workers import Workers

#: The schema that this code needs, and the level by which a store's ``min_code`` may refuse it.
SCHEMA_NEEDED: Final = 1
CODE_LEVEL: Final = 1


class SqlStore:
    """The store on PostgreSQL and SQLite; see :class:`playbill.store.port.Store` for what each method promises."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._store_id: str | None = None
        callers = CallerConnections(database)
        self._enqueue = Enqueue(database, callers)
        self._claims = Claims(database)
        self._finishing = Finishing(database, self._enqueue)
        self._progress = Progress(database, callers)
        self._workers = Workers(database)
        self._control = Control(database)
        self._parking = Parking(database)
        self._reads = Reads(database)
        self._policies = Policies(database)
        self._leadership = Leadership(database)
        self._scheduling = Scheduling(database)
        self._retention = Retention(database, self._policies)
        self._rescue = Rescue(self.database)

    # -- life ----------------------------------------------------------------------------------------------------
    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return self.database.dialect

    @property
    def store_id(self) -> str:
        """Identity of this store, made at its first migration."""
        if self._store_id is None:
            self._store_id = self._meta().store_id
        return self._store_id

    def check(self) -> None:
        """Raise StoreNotMigratedError or StoreTooNewError unless this code may use the store."""
        meta = self._meta()
        if meta.min_code > CODE_LEVEL:
            raise StoreTooNewError(
                f"the store needs code of level {meta.min_code} or newer, this is {CODE_LEVEL}: upgrade Playbill here"
            )
        if meta.schema < SCHEMA_NEEDED:
            raise StoreNotMigratedError(
                f"the store's schema is {meta.schema}, this code needs {SCHEMA_NEEDED}: run `playbill migrate`"
            )
        self._store_id = meta.store_id

    def close(self) -> None:
        """Close all connections; the store opens new ones when it is used again (also after a fork)."""
        self.database.close()

    def now(self) -> datetime:
        """The database's clock, aware, UTC."""
        with self.database.read() as connection:
            moment: datetime = connection.execute(sa.select(now())).scalar_one()
            return moment

    def _meta(self) -> Any:
        with self.database.read() as connection:
            row = connection.execute(sa.select(self.database.tables.meta)).first()
        if row is None:
            raise StoreNotMigratedError(NOT_MIGRATED)
        return row

    # -- enqueue -------------------------------------------------------------------------------------------------
    def insert(
        self, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float = 5.0, connection: Any = None
    ) -> list[Inserted]:
        """See the port."""
        return self._enqueue.insert(jobs, handover=handover, relay_after_s=relay_after_s, connection=connection)

    def settle(self, refs: Sequence[ClaimRef]) -> None:
        """See the port."""
        self._enqueue.settle(refs)

    def adopt(self, jobs: Sequence[NewJob]) -> None:
        """See the port."""
        self._enqueue.adopt(jobs)

    def open_group(self, group: str, *, size: int, ttl_s: float) -> None:
        """See the port."""
        groups = self.database.tables.groups
        with self.database.write() as connection:
            connection.execute(sa.delete(groups).where(groups.c.id == group))
            connection.execute(sa.insert(groups).values(id=group, remaining=size, expires_at=after(ttl_s)))

    # -- attempts ------------------------------------------------------------------------------------------------
    def claim(self, refs: Sequence[ClaimRef], *, worker: str) -> ClaimResult:
        """See the port."""
        return self._claims.claim(refs, worker=worker)

    def claim_next(self, queues: Sequence[str], limit: int, *, worker: str) -> tuple[Claimed, ...]:
        """See the port."""
        return self._claims.claim_next(queues, limit, worker=worker)

    def defer(
        self, refs: Sequence[ClaimRef], *, delay_s: float, reason: str, fail_after_s: float, handover: Handover
    ) -> None:
        """See the port."""
        defer(self.database, refs, delay_s=delay_s, reason=reason, fail_after_s=fail_after_s, handover=handover)

    def finish(self, finishes: Sequence[Finish], *, handover: Handover, relay_after_s: float = 5.0) -> Finished:
        """See the port."""
        return self._finishing.finish(finishes, handover=handover, relay_after_s=relay_after_s)

    def progress(self, updates: Sequence[ProgressUpdate]) -> None:
        """See the port."""
        self._progress.progress(updates)

    def checkpoint(
        self,
        connection: Any,
        *,
        id: str,  # noqa: A002 - the job's
        epoch: int,
        token: int,
        done: int,
        total: int | None,
        cursor: Any,
    ) -> None:
        """See the port."""
        self._progress.checkpoint(
            connection, job_id=id, epoch=epoch, token=token, done=done, total=total, cursor=cursor
        )

    # -- workers -------------------------------------------------------------------------------------------------
    def register_worker(self, info: WorkerInfo, *, lease_s: float) -> None:
        """See the port."""
        self._workers.register(info, lease_s=lease_s)

    def heartbeat(
        self, worker: str, *, lease_s: float, running: Sequence[str], state: str = "running"
    ) -> HeartbeatReply:
        """See the port."""
        self._claims.settle_lost()
        return self._workers.heartbeat(worker, lease_s=lease_s, running=running, state=state)

    def run_alone(self, worker: str, job_id: str | None) -> None:
        """See the port."""
        self._workers.run_alone(worker, job_id)

    def end_worker(self, worker: str, *, reason: str) -> None:
        """See the port."""
        self._workers.end(worker, reason=reason)

    def workers(self) -> list[WorkerRow]:
        """See the port."""
        return self._workers.live()

    # -- control -------------------------------------------------------------------------------------------------
    def cancel(self, ids: Sequence[str]) -> dict[str, CancelAnswer]:
        """See the port."""
        return self._control.cancel(ids)

    def redrive(
        self, where: JobFilter, *, limit: int, handover: Handover, relay_after_s: float = 5.0, dry_run: bool = False
    ) -> Redriven:
        """See the port."""
        return self._control.redrive(
            where, limit=limit, handover=handover, relay_after_s=relay_after_s, dry_run=dry_run
        )

    def park(self, messages: Sequence[ParkedMessage]) -> None:
        """See the port."""
        self._parking.park(messages)

    def parked(self, *, limit: int = 100) -> list[ParkedMessage]:
        """See the port."""
        return self._parking.parked(limit=limit)

    def unpark(self, ids: Sequence[str]) -> list[ParkedMessage]:
        """See the port."""
        return self._parking.unpark(ids)

    # -- reads ---------------------------------------------------------------------------------------------------
    def get(self, job_id: str) -> JobRow | None:
        """See the port."""
        return self._reads.get(job_id)

    def find(self, where: JobFilter, *, limit: int = 100) -> list[JobRow]:
        """See the port."""
        return self._reads.find(where, limit=limit)

    def count(self, where: JobFilter) -> int:
        """See the port."""
        return self._reads.count(where)

    def queue_counts(self) -> list[QueueCounts]:
        """See the port."""
        return self._reads.queue_counts()

    # -- policy --------------------------------------------------------------------------------------------------
    def put_policy(self, queue: str, spec: Mapping[str, Any], *, owner: str) -> QueuePolicy:
        """See the port."""
        return self._policies.put(queue, spec, owner=owner)

    def policies(self) -> dict[str, QueuePolicy]:
        """See the port."""
        return self._policies.all()

    # -- scheduler -----------------------------------------------------------------------------------------------
    def lead(self, name: str, holder: str, *, lease_s: float) -> bool:
        """See the port."""
        return self._leadership.lead(name, holder, lease_s=lease_s)

    def resign(self, name: str, holder: str) -> None:
        """See the port."""
        self._leadership.resign(name, holder)

    def release_due(self, *, limit: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """See the port."""
        return self._scheduling.release_due(limit=limit, relay_after_s=relay_after_s, leader=leader)

    def take_outbox(self, *, limit: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """See the port."""
        return self._scheduling.take_outbox(limit=limit, relay_after_s=relay_after_s, leader=leader)

    def missing(self, queue: str, *, excess: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """See the port."""
        return self._scheduling.missing(queue, excess=excess, relay_after_s=relay_after_s, leader=leader)

    def awaiting_broker(self) -> dict[str, int]:
        """See the port."""
        return self._scheduling.awaiting_broker()

    def to_store(self, *, limit: int, leader: str) -> int:
        """See the port."""
        return self._scheduling.to_store(limit=limit, leader=leader)

    def rescue(
        self, *, poison_limit: int, limit: int, handover: Handover, relay_after_s: float, leader: str
    ) -> list[Rescued]:
        """See the port."""
        return self._rescue.rescue(
            poison_limit=poison_limit,
            limit=limit,
            handover=handover,
            relay_after_s=relay_after_s,
            leader=leader,
        )

    def expire(self, *, limit: int, leader: str) -> int:
        """See the port."""
        return self._retention.expire(limit=limit, leader=leader)

    def purge(self, *, limit: int, leader: str) -> int:
        """See the port."""
        return self._retention.purge(limit=limit, leader=leader)

    def merge_rollups(self, *, leader: str) -> int:
        """See the port."""
        return self._retention.merge_rollups(leader=leader)


def open_sql_store(settings: Settings) -> SqlStore:
    """The store that the settings name. A SQLite file without tables is migrated at once (embedded mode).

    Raises:
        ConfigurationError: The URL is wrong.
        StoreUnavailableError: The SQLite file cannot be opened.
    """
    from playbill.store.migrate import migrate_database

    database = Database(settings.store_url.get_secret_value())
    store = SqlStore(database)
    if not database.on_postgres and not _has_tables(database):
        migrate_database(database)
    return store


def _has_tables(database: Database) -> bool:
    from pathlib import Path

    if not Path(database.url.database or "").exists():
        return False
    with database.read() as connection:
        return sa.inspect(connection).has_table(database.tables.meta.name)
