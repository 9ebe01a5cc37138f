"""What the rest of Playbill asks of a store; ``values`` holds what goes in and comes out, and says what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

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


class Store(Protocol):
    """The store. Methods are thread-safe, each is one transaction unless it takes a ``connection``.

    All raise ``StoreUnavailableError`` when the database cannot be reached and ``StoreError`` for other failures.
    """

    # -- life ----------------------------------------------------------------------------------------------------
    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""

    @property
    def store_id(self) -> str:
        """Identity of this store, made at its first migration."""

    def check(self) -> None:
        """Raise StoreNotMigratedError or StoreTooNewError unless this code may use the store."""

    def close(self) -> None:
        """Close all connections; the store opens new ones when it is used again (also after a fork)."""

    def now(self) -> datetime:
        """The database's clock, aware, UTC."""

    # -- enqueue -------------------------------------------------------------------------------------------------
    def insert(
        self, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float = 5.0, connection: Any = None
    ) -> list[Inserted]:
        """Insert jobs in one round trip. ``connection``: a SQLAlchemy Session/Connection or psycopg connection.

        Jobs not yet due become ``scheduled``. A due job becomes ``pending``, with an outbox row (BROKER, RELAY) or
        ``due_at`` set (STORE). An id that exists already is an InvalidInputError, except in ``adopt``.

        Raises:
            ForeignSessionError: ``connection`` is of another database than this store.
        """

    def settle(self, refs: Sequence[ClaimRef]) -> None:
        """The broker confirmed messages of these epochs: remove their outbox rows, unless these are of a newer one."""

    def adopt(self, jobs: Sequence[NewJob]) -> None:
        """Insert jobs that a plain producer published; ids that exist are left alone.

        They are pending without an outbox row, for the broker has them; one whose ``run_at`` is to come is scheduled.
        """

    def open_group(self, group: str, *, size: int, ttl_s: float) -> None:
        """Count the members of a group whose callbacks run when ``size`` of them have completed."""

    # -- attempts ------------------------------------------------------------------------------------------------
    def claim(self, refs: Sequence[ClaimRef], *, worker: str) -> ClaimResult:
        """Claim the named jobs that are due, waiting, at this epoch and not locked."""

    def claim_next(self, queues: Sequence[str], limit: int, *, worker: str) -> tuple[Claimed, ...]:
        """Claim up to ``limit`` due jobs that wait in the store (``due_at`` <= now), oldest due first, with message."""

    def defer(
        self, refs: Sequence[ClaimRef], *, delay_s: float, reason: str, fail_after_s: float, handover: Handover
    ) -> None:
        """Unknown actor: put waiting jobs back for ``delay_s`` (epoch + 1, ``wait_reason``).

        Those that have been deferred for ``fail_after_s`` in all fail. With ``Handover.STORE`` the jobs may be claimed
        already (by ``claim_next``, at this epoch): there a worker learns only then what a job is.
        """

    def finish(self, finishes: Sequence[Finish], *, handover: Handover, relay_after_s: float = 5.0) -> Finished:
        """End attempts, all in one transaction, with their follow-ups and rollups.

        Safe to repeat after an ambiguous commit: a finish that is stored already under its own token counts as applied.
        """

    def progress(self, updates: Sequence[ProgressUpdate]) -> None:
        """Write progress; updates whose fence is lost are ignored."""

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
        """Write progress and cursor in the caller's transaction.

        Raises:
            ForeignSessionError: ``connection`` is of another database.
            FenceLostError: The attempt no longer owns the job.
            JobCancelled: The job is being cancelled.
        """

    # -- workers -------------------------------------------------------------------------------------------------
    def register_worker(self, info: WorkerInfo, *, lease_s: float) -> None:
        """Make the worker's row with a lease."""

    def heartbeat(
        self, worker: str, *, lease_s: float, running: Sequence[str], state: str = "running"
    ) -> HeartbeatReply:
        """Renew the lease (only while it is not rescued) and learn what to cancel."""

    def run_alone(self, worker: str, job_id: str | None) -> None:
        """Note, before it starts, that the worker runs nothing but this suspect (None: it ended)."""

    def end_worker(self, worker: str, *, reason: str) -> None:
        """The worker has died or left: end its lease now; the reason goes into the history of what it ran."""

    def workers(self) -> list[WorkerRow]:
        """All workers with a live lease."""

    # -- control -------------------------------------------------------------------------------------------------
    def cancel(self, ids: Sequence[str]) -> dict[str, CancelAnswer]:
        """Cancel jobs: waiting ones end at once, running ones are told."""

    def redrive(
        self, where: JobFilter, *, limit: int, handover: Handover, relay_after_s: float = 5.0, dry_run: bool = False
    ) -> Redriven:
        """Bring failed or cancelled jobs back to pending (epoch + 1, attempt 0, history kept), oldest first."""

    def park(self, messages: Sequence[ParkedMessage]) -> None:
        """Keep messages that could not become jobs."""

    def parked(self, *, limit: int = 100) -> list[ParkedMessage]:
        """Parked messages, newest first."""

    def unpark(self, ids: Sequence[str]) -> list[ParkedMessage]:
        """Remove and return parked messages, to be published again or dropped."""

    # -- reads ---------------------------------------------------------------------------------------------------
    def get(self, job_id: str) -> JobRow | None:
        """One job, live or archived."""

    def find(self, where: JobFilter, *, limit: int = 100) -> list[JobRow]:
        """Jobs, newest first (by creation), live and archived."""

    def count(self, where: JobFilter) -> int:
        """How many jobs match."""

    def queue_counts(self) -> list[QueueCounts]:
        """Figures of every queue that has jobs or a policy, by name."""

    # -- policy --------------------------------------------------------------------------------------------------
    def put_policy(self, queue: str, spec: Mapping[str, Any], *, owner: str) -> QueuePolicy:
        """Store a policy if it differs from the one stored (the version rises by one over all queues)."""

    def policies(self) -> dict[str, QueuePolicy]:
        """All policies by queue."""

    # -- scheduler -----------------------------------------------------------------------------------------------
    def lead(self, name: str, holder: str, *, lease_s: float) -> bool:
        """Take or renew leadership by compare-and-swap. True while ``holder`` leads."""

    def resign(self, name: str, holder: str) -> None:
        """Give leadership up, if held."""

    def release_due(self, *, limit: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """Broker mode: jobs whose ``due_at`` has come become pending, with an outbox row; returned to be published.

        ``leader``: the holder that must still lead, checked in the same transaction (also below); else nothing is
        done and the answer is empty.
        """

    def take_outbox(self, *, limit: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """Outbox rows whose time has come, pushed back by ``relay_after_s`` and returned to be published.

        Rows whose job no longer waits at that epoch are removed.
        """

    def missing(self, queue: str, *, excess: int, relay_after_s: float, leader: str) -> list[Publishable]:
        """The ``excess`` oldest pending jobs of the queue that are not in the outbox: their messages were lost."""

    def awaiting_broker(self) -> dict[str, int]:
        """For each queue, how many pending jobs should have a message in the broker (``due_at`` is NULL, no outbox)."""

    def to_store(self, *, limit: int, leader: str) -> int:
        """Store mode: pending jobs that were meant for a broker (``due_at`` NULL) become claimable from the store."""

    def rescue(
        self, *, poison_limit: int, limit: int, handover: Handover, relay_after_s: float, leader: str
    ) -> list[Rescued]:
        """Take jobs back from workers whose lease has ended (and whose rows are gone); remove those workers.

        A worker that ran one suspect alone makes its job one crash richer; every other job that was running becomes
        a suspect. At ``poison_limit`` crashes the job fails with the worker's end as the reason. No attempt is burnt.
        """

    def expire(self, *, limit: int, leader: str) -> int:
        """Fail waiting jobs older than their queue's ``maxAge``; returns how many."""

    def purge(self, *, limit: int, leader: str) -> int:
        """Delete archived jobs past their queue's retention (defaults: completed 24 h, failed and cancelled 7 d).

        At most ``limit`` rows one by one; partitions are made ahead and dropped whole. Returns how many rows went.
        """

    def merge_rollups(self, *, leader: str) -> int:
        """Merge per-worker rollup rows of past minutes; returns how many rows were merged."""
