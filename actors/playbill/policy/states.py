"""The states of a job and the moves between them.

Waiting states: ``scheduled`` (due later), ``pending`` (may start now), ``retrying`` (failed, due again later).
Terminal states: ``completed``, ``failed`` (the dead letter), ``cancelled``.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class JobStatus(StrEnum):
    """Status of a job, as stored and shown."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    PROCESSING = "processing"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_waiting(self) -> bool:
        """Whether the job waits to be started."""
        return self in WAITING

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self in TERMINAL


WAITING = frozenset({JobStatus.SCHEDULED, JobStatus.PENDING, JobStatus.RETRYING})
TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

_S = JobStatus
#: For each status, where a job may go from there. Redrive is the one way out of a terminal state (failed, cancelled).
TRANSITIONS = MappingProxyType(
    {
        _S.SCHEDULED: frozenset({_S.PENDING, _S.PROCESSING, _S.CANCELLED, _S.FAILED}),
        _S.PENDING: frozenset({_S.PROCESSING, _S.SCHEDULED, _S.CANCELLED, _S.FAILED}),
        _S.PROCESSING: frozenset({_S.COMPLETED, _S.RETRYING, _S.PENDING, _S.SCHEDULED, _S.FAILED, _S.CANCELLED}),
        _S.RETRYING: frozenset({_S.PENDING, _S.PROCESSING, _S.SCHEDULED, _S.CANCELLED, _S.FAILED}),
        _S.COMPLETED: frozenset(),
        _S.FAILED: frozenset({_S.PENDING}),
        _S.CANCELLED: frozenset({_S.PENDING}),
    }
)


def can_move(source: JobStatus, target: JobStatus) -> bool:
    """Whether a job may go from ``source`` to ``target`` in one step."""
    return target in TRANSITIONS[source]
