"""One job, seen from outside: its status, its progress, its end."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from playbill.errors import InvalidInputError, JobCancelled, JobFailed, JobNotFoundError, WaitTimeout
from playbill.policy.states import JobStatus
from playbill.runtime import runtime
from playbill.store.port import Store
from playbill.store.values import CancelAnswer, JobRow


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. ``total`` and ``percent`` are None where the job did not say."""

    done: int
    total: int | None

    @property
    def percent(self) -> int | None:
        """Whole per cent, rounded down (15 of 22: 68)."""
        return self.done * 100 // self.total if self.total else None


class JobHandle:
    """One job, seen from outside.

    Attributes:
        id: The job's id.
        created: False where ``enqueue`` answered an existing job because of its key.
    """

    __slots__ = ("_row", "_store", "created", "id")

    def __init__(self, job_id: str, *, created: bool = True, store: Store | None = None) -> None:
        self.id = job_id
        self.created = created
        self._store = store
        self._row: JobRow | None = None

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    @property
    def store(self) -> Store:
        """The store asked."""
        return self._store if self._store is not None else runtime().store

    def refresh(self) -> JobHandle:
        """Read the job again.

        Raises:
            JobNotFoundError: No such job (its transaction did not commit, or its retention has passed).
        """
        row = self.store.get(self.id)
        if row is None:
            raise JobNotFoundError(f"no job {self.id}: never committed, or past its retention")
        self._row = row
        return self

    @property
    def row(self) -> JobRow:
        """The job as read last (at first use: now)."""
        if self._row is None:
            self.refresh()
        assert self._row is not None
        return self._row

    @property
    def status(self) -> JobStatus:
        """Status as read last."""
        return self.row.status

    @property
    def progress(self) -> Progress:
        """Progress, read now while the job is live."""
        if not self.row.status.is_terminal:
            self.refresh()
        return Progress(self.row.done, self.row.total)

    @property
    def result(self) -> Any:
        """What the actor returned, read now while the job is live; None before the end.

        Raises:
            JobFailed: The job has failed for good.
            JobCancelled: The job was cancelled.
        """
        if not self.row.status.is_terminal:
            self.refresh()
        return self._outcome(self.row) if self.row.status.is_terminal else None

    def wait(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the end.

        Args:
            timeout: Seconds, or a timedelta; None waits without end.

        Returns:
            What the actor returned.

        Raises:
            InvalidInputError: ``timeout`` is no time.
            JobFailed: The job has failed for good.
            JobCancelled: The job was cancelled.
            WaitTimeout: The time is over.
        """
        limit_s = _seconds(timeout)
        deadline = None if limit_s is None else time.monotonic() + limit_s
        pause_s = 0.005
        while not self.refresh().row.status.is_terminal:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(self.id, f"job {self.id} is still {self.row.status} after {limit_s:g} s")
            time.sleep(pause_s if left is None else min(pause_s, left))
            pause_s = min(pause_s * 1.5, 0.25)
        return self._outcome(self.row)

    async def await_result(self, timeout: float | timedelta | None = None) -> Any:  # noqa: ASYNC109 - mirrors wait()
        """:meth:`wait` without blocking the running loop."""
        return await asyncio.to_thread(self.wait, timeout)

    def cancel(self) -> CancelAnswer:
        """Cancel: a waiting job ends at once, a running one is told and stops at its next checkpoint.

        Raises:
            JobNotFoundError: No such job.
        """
        answer = self.store.cancel([self.id])[self.id]
        if answer is CancelAnswer.MISSING:
            raise JobNotFoundError(f"no job {self.id}")
        return answer

    def _outcome(self, row: JobRow) -> Any:
        if row.status is JobStatus.COMPLETED:
            return json.loads(row.result) if row.result is not None else None
        if row.status is JobStatus.CANCELLED:
            raise JobCancelled(self.id, f"job {self.id} was cancelled")
        error = row.error
        raise JobFailed(self.id, error.type if error else "Unknown", error.message if error else "no error was kept")


def _seconds(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or math.isnan(timeout):
        raise InvalidInputError("timeout", f"{timeout!r} is neither seconds nor a timedelta; None waits without end")
    return float(timeout)
