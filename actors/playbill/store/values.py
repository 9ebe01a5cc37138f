"""What the rest of Playbill hands to a store and gets from it; ``port`` says what it can be asked.

All times are UTC and decided by the database's clock (``clock_timestamp()``); callers hand over delays in seconds
wherever they can. The fence of every write about a running job is ``(id, epoch, token)``: ``epoch`` rises whenever a
job goes back to waiting (release, rescue, retry, cancel, redrive) and is never reset, ``token`` is new at each claim.

Where a job waits: ``due_at`` is set while it waits *in the store* (not due yet, or no broker), and NULL once it was
handed to the broker or runs. A row in the outbox means "the broker has not confirmed this one yet".

Values made once a job are not frozen: a frozen dataclass takes three times as long to make. Nobody changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

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
