"""What an actor knows about the job it runs: its cursor, its progress, whether it was cancelled.

Outside a job (an actor called as a plain function, a ``StubBroker`` test) ``current_job()`` answers a detached
context: progress and checkpoints go nowhere and the cursor is None, so the same code runs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from playbill.errors import FenceLostError, InvalidInputError, JobCancelled
from playbill.store.values import Claimed, NewJob, ProgressUpdate

if TYPE_CHECKING:
    from playbill.store.port import Store

_current: ContextVar[JobContext | None] = ContextVar("playbill_job", default=None)

#: What the store's 64 bits hold.
_MAX_UNITS: Final = 2**63 - 1

#: Runs the actor's function under the attempt's deadlines; set by the worker.
Guard = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]


class JobContext:
    """The running job, as its actor sees it.

    Attributes:
        id: The job's id; "" in a detached context.
        queue: Its queue.
        actor: Its actor's name.
        attempt: 1 for the first attempt.
        tenant: Its tenant, "" for none.
        cursor: What the last committed checkpoint stored; None at the start.
        done: Units of work done so far.
        total: Units of work in all, if known.
        created_at: When it was enqueued; None in a detached context.
    """

    __slots__ = (
        "_cancelled",
        "_claimed",
        "_progress",
        "_store",
        "actor",
        "attempt",
        "created_at",
        "cursor",
        "done",
        "follow_ups",
        "guard",
        "id",
        "lost",
        "queue",
        "tenant",
        "total",
    )

    def __init__(
        self,
        claimed: Claimed | None = None,
        *,
        store: Store | None = None,
        progress: Callable[[ProgressUpdate], None] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.id = claimed.id if claimed else ""
        self.queue = claimed.queue if claimed else ""
        self.actor = claimed.actor if claimed else ""
        self.attempt = claimed.attempt if claimed else 1
        self.tenant = claimed.tenant if claimed else ""
        self.cursor: Any = claimed.cursor if claimed else None
        self.done = claimed.done if claimed else 0
        self.total = claimed.total if claimed else None
        self.created_at: datetime | None = claimed.created_at if claimed else None
        self.guard = guard
        #: Collects what post-processing enqueues, to commit with the finish; None while the actor itself runs.
        self.follow_ups: list[NewJob] | None = None
        self.lost = False
        self._cancelled = False
        self._claimed = claimed
        self._store = store
        self._progress = progress

    @property
    def detached(self) -> bool:
        """Whether this is no tracked job but a plain call."""
        return self._claimed is None

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel the job (known within a heartbeat); stop at the next safe point."""
        return self._cancelled

    def cancel_requested(self) -> None:
        """Note that the job is to be cancelled (called by the worker)."""
        self._cancelled = True

    def progress(self, done: int, total: int | None = None) -> None:
        """Report progress; written at most once per ``progress_interval_ms``, the last value always at the end.

        Args:
            done: Units done so far, >= 0.
            total: Units in all; None keeps what was said before.

        Raises:
            InvalidInputError: ``done`` or ``total`` is negative, no whole number, or over 2^63 - 1.
            JobCancelled: The job is being cancelled.
            FenceLostError: The attempt no longer owns the job.
        """
        self._note(done, total)
        self._stop_if_over()
        if self._claimed is not None and self._progress is not None:
            self._progress(
                ProgressUpdate(self._claimed.id, self._claimed.epoch, self._claimed.token, self.done, self.total)
            )

    def checkpoint(self, session: Any, done: int, total: int | None = None, cursor: Any = None) -> None:
        """Store progress and cursor in the job's own transaction, fenced: the batch applies exactly once.

        If this attempt was superseded (rescued, cancelled) the call raises, so the caller's transaction rolls back.

        Args:
            session: SQLAlchemy Session or Connection, or psycopg connection, of the store's database. The caller
                commits it.
            done: Units done once this transaction commits, >= 0.
            total: Units in all; None keeps what was said before.
            cursor: Where a retry resumes: any JSON value; None keeps the last one.

        Raises:
            InvalidInputError: ``done`` or ``total`` is negative, no whole number, or over 2^63 - 1.
            ForeignSessionError: The session belongs to another database than the store.
            JobCancelled: The job is being cancelled.
            FenceLostError: The attempt no longer owns the job.
        """
        self._note(done, total)
        if cursor is not None:
            self.cursor = cursor
        self._stop_if_over()
        if self._claimed is None or self._store is None:
            return
        try:
            self._store.checkpoint(
                session,
                id=self._claimed.id,
                epoch=self._claimed.epoch,
                token=self._claimed.token,
                done=self.done,
                total=self.total,
                cursor=self.cursor,
            )
        except JobCancelled:
            self._cancelled = True
            raise
        except FenceLostError:
            self.lost = True
            raise

    async def acheckpoint(self, session: Any, done: int, total: int | None = None, cursor: Any = None) -> None:
        """``checkpoint`` for an async actor: ``session`` is an AsyncSession or AsyncConnection of SQLAlchemy."""
        await session.run_sync(lambda sync: self.checkpoint(sync, done, total, cursor))

    def _note(self, done: int, total: int | None) -> None:
        done = _units("done", done, "count the units done so far from 0")
        if total is not None:
            self.total = _units("total", total, "give the units in all, or None")
        self.done = done

    def _stop_if_over(self) -> None:
        if self.lost:
            raise FenceLostError(f"job {self.id}: this attempt was superseded; its work is rolled back")
        if self._cancelled:
            raise JobCancelled(self.id, f"job {self.id} was cancelled")


def _units(name: str, value: Any, remedy: str) -> int:
    """A count that the store can keep; checked here, for at the finish the work would be done already."""
    try:
        count = operator.index(value)  # numpy's integers too, and no float
    except TypeError:
        raise InvalidInputError(name, f"{value!r} is no whole number; {remedy}") from None
    if isinstance(value, bool) or not 0 <= count <= _MAX_UNITS:
        raise InvalidInputError(name, f"{value!r} is not between 0 and 2^63 - 1; {remedy}")
    return count


def current_job() -> JobContext:
    """The job that runs here; a detached context outside of jobs."""
    context = _current.get()
    return context if context is not None else JobContext()


def running_job() -> JobContext | None:
    """The job that runs here, or None."""
    return _current.get()


def enter(context: JobContext | None) -> None:
    """Make ``context`` the current job of this thread (called by the worker)."""
    _current.set(context)
