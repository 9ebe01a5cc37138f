"""What the rest of Playbill asks of a store, as values and one protocol.

All times are UTC and decided by the database's clock (``clock_timestamp()``); callers hand over delays in seconds
wherever they can. The fence of every write about a running job is ``(id, epoch, token)``: ``epoch`` rises whenever a
job goes back to waiting (release, rescue, retry, cancel, redrive) and is never reset, ``token`` is new at each claim.

Where a job waits: ``due_at`` is set while it waits *in the store* (not due yet, or no broker), and NULL once it was
handed to the broker or runs. A row in the outbox means "the broker has not confirmed this one yet".

Values made once a job are not frozen: a frozen dataclass takes three times as long to make. Nobody changes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from playbill.policy.states import JobStatus

#: Epoch of a job that was just inserted or adopted.
FIRST_EPOCH = 1


class Handover(StrEnum):
    """How a job that is due reaches a worker."""

    BROKER = "broker"  #: the caller publishes it; the outbox row is a safety net, due after ``relay_after_s``
    RELAY = "relay"  #: nobody publishes it but the scheduler's relay, at once (a raw psycopg connection)
    STORE = "store"  #: workers claim it from the store (no broker configured)


class Verdict(StrEnum):
    """Why a job named in a claim was not claimed."""

    TERMINAL = "terminal"  #: it has ended (archived); drop the message
    STALE = "stale"  #: the message's epoch is old, or the job runs already; drop the message
    NOT_DUE = "not_due"  #: it waits in the store for its time; drop the message, the scheduler publishes again
    LOCKED = "locked"  #: another transaction holds the row now; ask again
    MISSING = "missing"  #: no such job: park the message


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"  #: for good
    CANCELLED = "cancelled"
    RETRY = "retry"  #: due again after ``delay_s``; the attempt counts
    RELEASE = "release"  #: goes back as if it had never started (drain, stall); the attempt does not count


@dataclass(slots=True, unsafe_hash=True)
class NewJob:
    """A job to insert. ``message`` is the encoded Dramatiq message; ``delay_s`` and ``run_at`` exclude each other."""

    id: str
    queue: str
    actor: str
    message: bytes
    priority: int = 5
    tenant: str = ""
    key: str | None = None
    tags: tuple[str, ...] = ()
    delay_s: float = 0.0
    run_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of one :class:`NewJob`, in the order given.

    ``created`` is False where the key belongs to a job that is not done: then ``id`` is that job's. ``publish`` says
    that the caller should publish it now (due, created, ``Handover.BROKER``).
    """

    id: str
    epoch: int
    created: bool
    publish: bool


@dataclass(slots=True, unsafe_hash=True)
class ClaimRef:
    """A delivered message: which job, at which epoch."""

    id: str
    epoch: int


@dataclass(slots=True, unsafe_hash=True)
class Claimed:
    """A job that this worker now owns. ``message`` is None where the claimer has it already (from the broker)."""

    id: str
    epoch: int
    token: int
    queue: str
    actor: str
    attempt: int  #: 1 for the first attempt
    suspect: bool  #: was running when a worker crashed: run it alone
    cursor: Any  #: what the last checkpoint stored, decoded JSON; None at the start
    created_at: datetime
    run_at: datetime  #: when it became due
    started_at: datetime
    done: int
    total: int | None
    tenant: str
    message: bytes | None = None


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """Answer to a claim: each id asked for is in exactly one of the two."""

    claimed: tuple[Claimed, ...]
    refused: Mapping[str, Verdict]


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """Why an attempt failed: ``type`` is the exception's class name or a reason such as ``TimeLimitExceeded``."""

    type: str
    message: str
    traceback: str = ""


@dataclass(slots=True, unsafe_hash=True)
class Finish:
    """The end of one attempt, applied only if the fence still holds.

    ``result`` is encoded JSON text; ``follow_ups`` are inserted in the same transaction, if and only if this applies.
    """

    id: str
    epoch: int
    token: int
    outcome: Outcome
    queue: str
    actor: str
    result: str | None = None
    error: ErrorRecord | None = None
    delay_s: float = 0.0
    wait_reason: str | None = None  #: shown while it waits after RETRY or RELEASE
    wait_ms: float = 0.0  #: from due to start, for the rollups
    run_ms: float = 0.0  #: from start to end, for the rollups
    done: int | None = None
    total: int | None = None
    policy_version: int = 0
    follow_ups: tuple[NewJob, ...] = ()
    group: str | None = None  #: a COMPLETED member counts its group down by one
    group_callbacks: tuple[NewJob, ...] = ()  #: inserted by the finish that brings the group to zero


@dataclass(frozen=True, slots=True)
class Publishable:
    """A job to be published now."""

    id: str
    epoch: int
    queue: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """Which finishes applied, and what is to be published because of them.

    ``busy``: another transaction holds the row now; the fence stands, ask again. All others lost their fence.
    """

    applied: frozenset[str]
    publish: tuple[Publishable, ...] = ()
    busy: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """Progress of a running job; fenced. ``note`` is free text."""

    id: str
    epoch: int
    token: int
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker process."""

    id: str
    hostname: str
    pid: int
    queues: tuple[str, ...]
    actors: tuple[str, ...]
    slots: int
    version: str


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """``known`` is False where the lease had ended and the jobs were rescued. ``cancelling``: ids of running jobs."""

    known: bool
    cancelling: tuple[str, ...]
    policy_version: int  #: highest version over all queues; changes tell the worker to read the policies again


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Policy of one queue: ``spec`` is the JobQueue's spec as plain JSON values."""

    queue: str
    spec: Mapping[str, Any]
    version: int
    owner: str


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; None means any. ``ids`` excludes nothing else. Times are inclusive at the start."""

    ids: tuple[str, ...] | None = None
    queue: str | None = None
    actor: str | None = None
    statuses: tuple[JobStatus, ...] | None = None
    tenant: str | None = None
    tag: str | None = None
    key: str | None = None
    error_type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as people see it, live or archived. ``history`` holds one dict per ended attempt that did not complete."""

    id: str
    queue: str
    actor: str
    status: JobStatus
    epoch: int
    attempt: int
    priority: int
    tenant: str
    key: str | None
    tags: tuple[str, ...]
    message: bytes
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    done: int
    total: int | None
    cursor: Any
    result: str | None  #: encoded JSON
    error: ErrorRecord | None
    history: tuple[Mapping[str, Any], ...]
    wait_reason: str | None
    cancelling: bool
    crashes: int


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Figures of one queue. ``oldest_waiting_s`` is the age of the oldest job that could run now, seconds."""

    queue: str
    pending: int = 0
    scheduled: int = 0
    retrying: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    oldest_waiting_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as people see it."""

    id: str
    hostname: str
    pid: int
    queues: tuple[str, ...]
    actors: tuple[str, ...]
    slots: int
    version: str
    state: str  #: starting | running | draining
    running: tuple[str, ...]
    started_at: datetime
    heartbeat_at: datetime
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """A message that could not become a job: kept with its body and the reason until somebody looks at it."""

    id: str
    queue: str
    body: bytes
    reason: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    parked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job taken back from a dead worker. ``failed`` is True where it reached the poison limit."""

    id: str
    queue: str
    worker: str
    failed: bool
    publish: Publishable | None


@dataclass(frozen=True, slots=True)
class Redriven:
    """Answer to a redrive: how many matched, how many were brought back, how many were skipped because of their key."""

    matched: int
    redriven: int
    skipped: int
    publish: tuple[Publishable, ...] = ()


class CancelAnswer(StrEnum):
    """What cancel did."""

    CANCELLED = "cancelled"  #: it was waiting and has ended
    CANCELLING = "cancelling"  #: it runs; the worker is told
    TERMINAL = "terminal"  #: it had ended already
    MISSING = "missing"


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
