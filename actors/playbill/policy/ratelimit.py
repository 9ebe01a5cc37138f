"""Rate limits as token buckets: how many starts a rule allows now, and when it allows the next one.

A bucket holds at most ``burst`` tokens and gains ``limit`` of them a ``period``; a start takes as many as the job
weighs. So no window of one period ever holds more than ``limit + burst`` [token bucket; RFC 2697 calls them CIR and
CBS].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from playbill.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Rate:
    """How much may start.

    Attributes:
        limit: Weight that may start a period, 1 or more.
        period_s: The period, seconds, more than 0.
        burst: Most weight that may start at once, 1 or more.
    """

    limit: int
    period_s: float
    burst: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InvalidInputError("limit", f"{self.limit} is less than 1; pause the queue to stop it")
        if not 0 < self.period_s < math.inf:
            raise InvalidInputError("period", f"{self.period_s!r} s is not a time; write a duration such as 1m")
        if self.burst < 1:
            raise InvalidInputError("burst", f"{self.burst} is less than 1; nothing could ever start")

    @property
    def per_s(self) -> float:
        """Tokens gained a second."""
        return self.limit / self.period_s


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of a rate.

    Attributes:
        tokens: Weight that may start, at ``at``; negative after a job heavier than the burst.
        at_s: The time of that, seconds since 1970 by the database's clock.
    """

    tokens: float
    at_s: float


def default_burst(limit: int, period_s: float) -> int:
    """The burst where a rule states none: one second's limit, so that a steady rate is used to the full."""
    return max(1, math.ceil(limit / period_s))


def refilled(bucket: Bucket | None, rate: Rate, *, now_s: float) -> Bucket:
    """The bucket as it is now; full where there was none. A clock that went back gives nothing."""
    if bucket is None:
        return Bucket(float(rate.burst), now_s)
    gained = max(0.0, now_s - bucket.at_s) * rate.per_s
    return Bucket(min(float(rate.burst), bucket.tokens + gained), max(now_s, bucket.at_s))


def allows(bucket: Bucket, rate: Rate, weight: int) -> bool:
    """Whether a job of this weight may start from a refilled bucket.

    One that weighs more than the burst starts from a full bucket and leaves a debt, or it would never start.
    """
    return bucket.tokens >= min(weight, rate.burst) - 1e-9


def taken(bucket: Bucket, weight: int) -> Bucket:
    """The bucket after a start."""
    return Bucket(bucket.tokens - weight, bucket.at_s)


def returned(bucket: Bucket, rate: Rate, weight: int) -> Bucket:
    """The bucket after a start that did not come about."""
    return Bucket(min(float(rate.burst), bucket.tokens + weight), bucket.at_s)


def wait_s(bucket: Bucket, rate: Rate, weight: int) -> float:
    """Seconds until a job of this weight may start, counted from the bucket's time; 0 where it may now."""
    return max(0.0, (min(weight, rate.burst) - bucket.tokens) / rate.per_s)


def is_full(bucket: Bucket, rate: Rate, *, now_s: float) -> bool:
    """Whether it is as good as new, and need not be kept."""
    return refilled(bucket, rate, now_s=now_s).tokens >= rate.burst
