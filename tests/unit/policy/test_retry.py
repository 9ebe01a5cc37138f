"""Retry: who gets another attempt, and when."""

from __future__ import annotations

import math
import random

import pytest
from dramatiq import common
from hypothesis import given
from hypothesis import strategies as st

from playbill.errors import InvalidInputError
from playbill.policy.retry import RetryPolicy, backoff_s, decide_retry, error_types

units = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 10**400)
strategies = st.sampled_from(["exponential", "linear", "fixed"])
policies = st.builds(
    RetryPolicy,
    max_attempts=st.none() | st.integers(1, 50),
    strategy=strategies | st.just("dramatiq"),
    initial_s=st.floats(0, 1e6),
    max_s=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)


def decide(policy=None, *, attempt=1, error=ValueError, u=0.5, **kw):
    return decide_retry(policy or RetryPolicy(), attempt=attempt, error_types=error_types(error), u=u, **kw)


@given(policies, attempts, units)
def test_a_delay_is_never_negative_and_never_over_the_cap(policy, attempt, u):
    assert 0 <= backoff_s(policy, attempt=attempt, u=u) <= policy.max_s


@given(policies.filter(lambda p: p.strategy != "dramatiq"), st.integers(1, 200), units)
def test_delays_never_shrink_from_attempt_to_attempt(policy, attempt, u):
    assert backoff_s(policy, attempt=attempt, u=u) <= backoff_s(policy, attempt=attempt + 1, u=u)


@given(policies.filter(lambda p: p.strategy != "dramatiq"), st.integers(1, 60), units, units)
def test_a_higher_draw_never_gives_a_shorter_delay(policy, attempt, one, other):
    low, high = sorted((one, other))
    assert backoff_s(policy, attempt=attempt, u=low) <= backoff_s(policy, attempt=attempt, u=high)


@given(strategies, st.floats(0.001, 100), st.floats(0, 1), st.integers(1, 30), units)
def test_jitter_stays_within_its_share(strategy, initial_s, jitter, attempt, u):
    policy = RetryPolicy(strategy=strategy, initial_s=initial_s, max_s=1e12, jitter=jitter)
    growth = {"exponential": 2.0 ** (attempt - 1), "linear": attempt, "fixed": 1}[strategy]
    delay_s = initial_s * growth
    found = backoff_s(policy, attempt=attempt, u=u)
    assert delay_s * (1 - jitter) * 0.999999 <= found <= delay_s * (1 + jitter) * 1.000001


def test_the_default_is_fifteen_thirty_sixty_seconds():
    policy = RetryPolicy(jitter=0)
    assert [backoff_s(policy, attempt=n, u=0.9) for n in (1, 2, 3, 6, 7, 8)] == [15, 30, 60, 480, 600, 600]


def test_jitter_spreads_evenly_around_the_delay():
    policy = RetryPolicy(jitter=0.2)
    assert [backoff_s(policy, attempt=1, u=u) for u in (0.0, 0.5, 1.0)] == pytest.approx([12, 15, 18])


@pytest.mark.parametrize("retries", [0, 1, 3, 5, 8, 40])
def test_dramatiq_backoff_has_dramatiqs_distribution(retries):
    policy = RetryPolicy.from_dramatiq(max_retries=None, min_backoff_ms=1000, max_backoff_ms=50_000)
    draw = random.Random(3)
    ours = sorted(backoff_s(policy, attempt=retries + 1, u=draw.random()) for _ in range(4000))
    theirs = sorted(common.compute_backoff(retries, factor=1000, max_backoff=50_000)[1] / 1000 for _ in range(4000))
    for share in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
        place = int(share * 4000)
        assert ours[place] == pytest.approx(theirs[place], rel=0.1)


def test_dramatiq_defaults_are_dramatiqs():
    policy = RetryPolicy.from_dramatiq(max_retries=20)
    assert (policy.max_attempts, policy.initial_s, policy.max_s) == (21, 15.0, 604_800.0)
    assert RetryPolicy.from_dramatiq(max_retries=0, min_backoff_ms=0).initial_s == 0.0
    assert RetryPolicy.from_dramatiq(max_retries=None, max_backoff_ms=1e12).max_s == 604_800.0


@given(st.integers(1, 100), st.integers(1, 200))
def test_attempts_end_at_their_number(most, attempt):
    decision = decide(RetryPolicy(max_attempts=most), attempt=attempt)
    assert decision.retry == (attempt < most)
    assert decision.exhausted == (attempt >= most)


def test_without_a_number_attempts_never_end():
    assert decide(RetryPolicy(max_attempts=None), attempt=10**9).retry


class ShopError(Exception):
    class StockError(LookupError):
        pass


@pytest.mark.parametrize(
    "name",
    ["StockError", "LookupError", "builtins.LookupError", "Exception", f"{__name__}.ShopError.StockError"],
)
def test_errors_are_known_by_class_and_bases_bare_and_dotted(name):
    assert not decide(RetryPolicy(give_up_on=(name,)), error=ShopError.StockError).retry
    assert decide(RetryPolicy(retry_on=(name,)), error=ShopError.StockError()).retry


def test_what_is_not_listed_is_not_retried():
    decision = decide(RetryPolicy(retry_on=("OSError",)))
    assert (decision.retry, decision.exhausted) == (False, False)
    assert decision.reason == "ValueError is not in retryOn"


def test_giving_up_wins_over_retrying_and_over_the_predicate():
    policy = RetryPolicy(retry_on=("Exception",), give_up_on=("ValueError",))
    assert not decide(policy, wanted=True).retry
    assert decide(policy).reason == "gives up on ValueError"


def test_the_predicate_decides_within_the_attempts():
    policy = RetryPolicy(max_attempts=3)
    assert decide(policy, attempt=2, wanted=True).retry
    assert not decide(policy, attempt=3, wanted=True).retry
    refused = decide(policy, attempt=1, wanted=False)
    assert (refused.retry, refused.exhausted) == (False, True)


def test_a_requested_delay_is_used_as_it_is():
    assert decide(requested_delay_s=5000.0).delay_s == 5000.0
    assert decide(requested_delay_s=0.0).delay_s == 0.0
    assert not decide(attempt=3, requested_delay_s=0.0).retry


def test_reasons_are_for_people():
    assert decide(RetryPolicy(jitter=0), attempt=2).reason == "attempt 2 of 3 failed, next in 30s"
    assert decide(attempt=3).reason == "attempt 3 of 3 failed"


@pytest.mark.parametrize(
    "wrong",
    [{"max_attempts": 0}, {"initial_s": -1}, {"max_s": math.inf}, {"initial_s": math.nan}, {"jitter": 1.1}],
)
def test_a_policy_that_means_nothing_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        RetryPolicy(**wrong)
