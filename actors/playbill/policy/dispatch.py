"""Which waiting jobs of a windowed queue are released next: pure, over what the store has found.

Jobs that no rule tells apart form a *stream*: those of one tenant, one partition and one actor, as far as the queue's
rules look at these. Within a stream jobs go by priority (10 first), then by the time they became due. A stream whose
next job may not start now is passed over, so it holds up no other.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from playbill.policy.ratelimit import Bucket, Rate, allows, refilled, taken

PartitionBy = Literal["none", "tenant", "key"]

#: Between the parts of a stream's name: a control character, which no tenant, partition or actor may hold.
SEPARATOR: Final = "\x1f"
#: Work kept in the broker beyond twice the free slots, seconds of the queue's own speed.
WINDOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """One rate limit of a queue.

    Attributes:
        rate: How much may start.
        partition_by: What has a bucket of its own: each tenant, each partition key, or nothing (one for all).
        actor: Only jobs of this actor count; None: all.
    """

    rate: Rate
    partition_by: PartitionBy = "none"
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """What a queue's policy and its pauses say about the order and number of starts.

    Attributes:
        priorities: Whether jobs go by priority.
        max_concurrency: Most jobs at once over all workers; None: no cap.
        per_key: Most jobs at once of one partition key; None: no cap.
        fair: Whether tenants take turns.
        weights: Turns of a tenant in a row; 1 where it is not named.
        limits: Rate limits; all that apply to a job must allow it.
        paused: Whether nothing is released at all.
        paused_actors: Actors whose jobs are not released.
        paused_tenants: Tenants whose jobs are not released.
    """

    priorities: bool = False
    max_concurrency: int | None = None
    per_key: int | None = None
    fair: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    paused: bool = False
    paused_actors: frozenset[str] = frozenset()
    paused_tenants: frozenset[str] = frozenset()

    @property
    def windowed(self) -> bool:
        """Whether the scheduler releases this queue's jobs; else they are published as they come."""
        return bool(
            self.priorities
            or self.max_concurrency is not None
            or self.per_key is not None
            or self.fair
            or self.limits
            or self.paused_actors
            or self.paused_tenants
        )

    @property
    def shape(self) -> str | None:
        """What streams are told apart by: letters of ``tpa`` (tenant, partition, actor); None: not windowed."""
        if not self.windowed:
            return None
        by = {limit.partition_by for limit in self.limits}
        letters = ""
        if self.fair or self.paused_tenants or "tenant" in by:
            letters += "t"
        if self.per_key is not None or "key" in by:
            letters += "p"
        if self.paused_actors or any(limit.actor is not None for limit in self.limits):
            letters += "a"
        return letters


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job that is due."""

    id: str
    priority: int
    run_at: datetime
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream and its next jobs, in their order. Parts that the queue's shape does not tell apart are ""."""

    tenant: str
    partition: str
    actor: str
    jobs: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it was last, and how many releases it had left."""

    tenant: str = ""
    left: int = 0


#: (number of the rule, value of its partition)
BucketKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to release, and what to remember.

    Attributes:
        ids: Jobs to release, in this order.
        buckets: Buckets that were drawn from, as they are now.
        turn: Where the tenants' turns go on.
        blocked: Streams passed over, with the reason: ``paused``, ``limit`` or ``per_key``.
    """

    ids: tuple[str, ...]
    buckets: Mapping[BucketKey, Bucket]
    turn: Turn
    blocked: Mapping[tuple[str, str, str], str]


def stream_name(shape: str, *, tenant: str, partition: str, actor: str) -> str:
    """The name of a job's stream, as it is stored with the job."""
    parts = (("t", tenant), ("p", partition), ("a", actor))
    return SEPARATOR.join(value if letter in shape else "" for letter, value in parts)


def stream_parts(name: str) -> tuple[str, str, str]:
    """Tenant, partition and actor of a stream's name; "" for those not told apart."""
    tenant, partition, actor = name.split(SEPARATOR)
    return tenant, partition, actor


def window(free_slots: int, claims_per_s: float) -> int:
    """How many released jobs may wait for a worker: twice the free slots, or a second of what workers claim."""
    return max(2 * max(0, free_slots), math.ceil(max(0.0, claims_per_s) * WINDOW_S))


def bucket_keys(policy: DispatchPolicy, *, tenant: str, partition: str, actor: str) -> list[BucketKey]:
    """The buckets that a job draws from."""
    values = {"none": "", "tenant": tenant, "key": partition}
    return [
        (number, values[limit.partition_by])
        for number, limit in enumerate(policy.limits)
        if limit.actor in (None, actor)
    ]


def choose(
    policy: DispatchPolicy,
    streams: Sequence[Stream],
    *,
    room: int,
    running: Mapping[str, int],
    buckets: Mapping[BucketKey, Bucket],
    turn: Turn,
    now_s: float,
) -> Choice:
    """Choose what to release.

    Args:
        policy: The queue's policy.
        streams: Streams with due jobs.
        room: Most jobs to release, 0 or more: what window and cap have left.
        running: Jobs released and not ended, by partition key; asked only where ``per_key`` is set.
        buckets: Buckets that exist; one that does not is full.
        turn: What the last choice left.
        now_s: The time, seconds since 1970 by the database's clock.

    Returns:
        The choice.
    """
    return _Chooser(policy, streams, running, buckets, now_s).run(room, turn)


class _Chooser:
    def __init__(
        self,
        policy: DispatchPolicy,
        streams: Sequence[Stream],
        running: Mapping[str, int],
        buckets: Mapping[BucketKey, Bucket],
        now_s: float,
    ) -> None:
        self._policy = policy
        self._known = buckets
        self._now_s = now_s
        self._running = dict(running)
        self._changed: dict[BucketKey, Bucket] = {}
        self._chosen: list[str] = []
        self._blocked: dict[tuple[str, str, str], str] = {}
        #: By tenant where they take turns, else one for all: the next job of each stream.
        self._heaps: dict[str, list[tuple[int, datetime, str, int, Stream]]] = {}
        for stream in streams:
            self._push(stream, 0)

    def run(self, room: int, turn: Turn) -> Choice:
        waiting = _in_turn(sorted(self._heaps), turn)
        left = turn.left if waiting and waiting[0] == turn.tenant else 0
        while waiting and len(self._chosen) < room:
            tenant = waiting.pop(0)
            left = left or self._policy.weights.get(tenant, 1)
            while left and len(self._chosen) < room and self._release_next(tenant):
                left -= 1
            if not self._heaps[tenant]:
                left = 0
            elif left == 0:
                waiting.append(tenant)
            turn = Turn(tenant, left)
            left = 0
        return Choice(tuple(self._chosen), self._changed, turn, self._blocked)

    def _push(self, stream: Stream, index: int) -> None:
        if index < len(stream.jobs):
            job = stream.jobs[index]
            heap = self._heaps.setdefault(stream.tenant if self._policy.fair else "", [])
            order = -job.priority if self._policy.priorities else 0
            heapq.heappush(heap, (order, job.run_at, job.id, index, stream))

    def _release_next(self, tenant: str) -> bool:
        """Release the tenant's next job that may start; False where it has none."""
        heap = self._heaps[tenant]
        while heap:
            *_, index, stream = heapq.heappop(heap)
            job = stream.jobs[index]
            reason = self._why_not(stream, job)
            if reason is not None:
                self._blocked[stream.tenant, stream.partition, stream.actor] = reason
                continue
            self._take(stream, job)
            self._push(stream, index + 1)
            return True
        return False

    def _why_not(self, stream: Stream, job: Candidate) -> str | None:
        policy = self._policy
        if stream.actor in policy.paused_actors or stream.tenant in policy.paused_tenants:
            return "paused"
        if policy.per_key is not None and stream.partition and self._running.get(stream.partition, 0) >= policy.per_key:
            return "per_key"
        for key in self._keys(stream):
            if not allows(self._bucket(key), policy.limits[key[0]].rate, job.weight):
                return "limit"
        return None

    def _take(self, stream: Stream, job: Candidate) -> None:
        for key in self._keys(stream):
            self._changed[key] = taken(self._bucket(key), job.weight)
        if stream.partition:
            self._running[stream.partition] = self._running.get(stream.partition, 0) + 1
        self._chosen.append(job.id)

    def _keys(self, stream: Stream) -> list[BucketKey]:
        return bucket_keys(self._policy, tenant=stream.tenant, partition=stream.partition, actor=stream.actor)

    def _bucket(self, key: BucketKey) -> Bucket:
        changed = self._changed.get(key)
        if changed is not None:
            return changed
        return refilled(self._known.get(key), self._policy.limits[key[0]].rate, now_s=self._now_s)


def _in_turn(tenants: list[str], turn: Turn) -> list[str]:
    """The tenants from whose turn it is on: the one that was interrupted, else the next one."""
    at = bisect_right(tenants, turn.tenant)
    if turn.left and at and tenants[at - 1] == turn.tenant:
        at -= 1
    return tenants[at:] + tenants[:at]
