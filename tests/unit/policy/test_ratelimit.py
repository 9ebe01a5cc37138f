"""Token buckets: what they allow over any window, and when they allow the next start."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.errors import InvalidInputError
from playbill.policy.ratelimit import (
    Bucket,
    Rate,
    allows,
    default_burst,
    is_full,
    refilled,
    returned,
    taken,
    wait_s,
)

rates = st.builds(
    Rate, limit=st.integers(1, 1000), period_s=st.floats(0.01, 3600, allow_nan=False), burst=st.integers(1, 100)
)


@given(rate=rates, gaps=st.lists(st.floats(0, 30, allow_nan=False), max_size=30), start=st.integers(0, 10**9))
def test_no_window_of_a_period_holds_more_than_limit_and_burst(rate: Rate, gaps: list[float], start: int) -> None:
    # Given: somebody who starts whatever is allowed, whenever they look
    bucket, now_s, starts = None, float(start), []
    for gap in gaps:
        now_s += gap
        bucket = refilled(bucket, rate, now_s=now_s)
        for _ in range(rate.burst + 1):
            if allows(bucket, rate, 1):
                bucket = taken(bucket, 1)
                starts.append(now_s)
    # Then
    for first in set(starts):
        within = bisect_left(starts, first + rate.period_s) - bisect_left(starts, first)
        assert within <= rate.limit + rate.burst


@given(rate=rates, tokens=st.floats(-50, 100, allow_nan=False), weight=st.integers(1, 200))
def test_after_the_wait_a_start_is_allowed_and_just_before_it_is_not(rate: Rate, tokens: float, weight: int) -> None:
    bucket = Bucket(min(tokens, rate.burst), 0.0)
    pause_s = wait_s(bucket, rate, weight)
    assert allows(refilled(bucket, rate, now_s=pause_s * (1 + 1e-9) + 1e-6), rate, weight)
    if pause_s > 1.0:
        assert not allows(refilled(bucket, rate, now_s=pause_s * 0.99), rate, weight)


def test_a_job_heavier_than_the_burst_starts_from_a_full_bucket_and_leaves_a_debt() -> None:
    rate = Rate(10, 1.0, burst=5)
    full = refilled(None, rate, now_s=0.0)
    assert allows(full, rate, 8)
    after = taken(full, 8)
    assert after.tokens == -3
    assert not allows(refilled(after, rate, now_s=0.3), rate, 1)
    assert wait_s(after, rate, 8) == pytest.approx(0.8)


def test_a_start_that_did_not_come_about_gives_its_tokens_back_but_no_more() -> None:
    rate = Rate(10, 1.0, burst=5)
    assert returned(Bucket(3.0, 1.0), rate, 1) == Bucket(4.0, 1.0)
    assert returned(Bucket(4.5, 1.0), rate, 3) == Bucket(5.0, 1.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    rate = Rate(10, 1.0, burst=5)
    assert refilled(Bucket(0.0, 100.0), rate, now_s=90.0) == Bucket(0.0, 100.0)


def test_a_full_bucket_need_not_be_kept() -> None:
    rate = Rate(10, 1.0, burst=5)
    assert not is_full(Bucket(0.0, 0.0), rate, now_s=0.4)
    assert is_full(Bucket(0.0, 0.0), rate, now_s=0.5)


@pytest.mark.parametrize(
    ("limit", "period_s", "burst", "field"),
    [(0, 1.0, 1, "limit"), (1, 0.0, 1, "period"), (1, float("inf"), 1, "period"), (1, 1.0, 0, "burst")],
)
def test_a_rate_that_means_nothing_is_refused(limit: int, period_s: float, burst: int, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Rate(limit, period_s, burst)
    assert refused.value.field == field


@pytest.mark.parametrize(("limit", "period_s", "burst"), [(100, 60.0, 2), (1, 60.0, 1), (500, 1.0, 500)])
def test_the_burst_is_one_seconds_limit_unless_stated(limit: int, period_s: float, burst: int) -> None:
    assert default_burst(limit, period_s) == burst
