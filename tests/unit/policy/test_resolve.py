"""Precedence: message > JobQueue > actor > defaults, option by option."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.errors import InvalidInputError
from playbill.policy.resolve import PolicyDefaults, check_options, resolve
from playbill.policy.retry import RetryPolicy, decide_retry, error_types
from playbill.spec.duration import format_duration


def test_where_nobody_says_anything_the_defaults_hold():
    found = resolve({}, None, {})
    assert found.retry == RetryPolicy(3, "exponential", 15.0, 600.0, 0.2, (), ())
    assert (found.time_limit_s, found.time_limit_grace_s, found.max_age_s) == (600.0, 30.0, None)
    assert (found.store_results, found.retry_when) == (True, None)


def attempts_of(policy):
    return policy.retry.max_attempts


#: option of message and actor, key of the queue, and how the outcome is read.
LEVELS = {
    "attempts": (
        lambda n: {"max_retries": n},
        lambda n: {"retry": {"maxAttempts": n + 1}},
        attempts_of,
        lambda n: n + 1,
    ),
    "initial": (
        lambda n: {"min_backoff": n * 1000},
        lambda n: {"retry": {"backoff": {"initial": f"{n}s"}}},
        lambda p: p.retry.initial_s,
        float,
    ),
    "max": (
        lambda n: {"max_backoff": n * 1000},
        lambda n: {"retry": {"backoff": {"max": f"{n}s"}}},
        lambda p: p.retry.max_s,
        float,
    ),
    "time limit": (
        lambda n: {"time_limit": n * 1000},
        lambda n: {"timeLimit": f"{n}s"},
        lambda p: p.time_limit_s,
        float,
    ),
    "max age": (lambda n: {"max_age": n * 1000}, lambda n: {"maxAge": f"{n}s"}, lambda p: p.max_age_s, float),
}
values = st.none() | st.integers(0, 10_000)


@pytest.mark.parametrize("name", LEVELS)
@given(message=values, queue=values, actor=values)
def test_the_highest_level_that_states_a_value_wins(name, message, queue, actor):
    option, key, read, meant = LEVELS[name]
    found = resolve(
        option(message) if message is not None else {},
        key(queue) if queue is not None else {},
        option(actor) if actor is not None else {},
    )
    stated = next((value for value in (message, queue, actor) if value is not None), None)
    expected = read(resolve({}, None, {})) if stated is None else meant(stated)
    assert read(found) == expected


@given(st.integers(0, 10**9))
def test_milliseconds_and_durations_mean_the_same(milliseconds):
    by_option = resolve({"time_limit": milliseconds, "max_age": milliseconds}, None, {})
    written = format_duration(milliseconds / 1000)
    by_queue = resolve({}, {"timeLimit": written, "maxAge": written}, {})
    assert (by_option.time_limit_s, by_option.max_age_s) == (by_queue.time_limit_s, by_queue.max_age_s)


def test_no_retry_in_dramatiq_words_is_one_attempt():
    assert attempts_of(resolve({}, None, {"max_retries": 0})) == 1
    assert attempts_of(resolve({"max_retries": 0}, {"retry": {"maxAttempts": 9}}, {"max_retries": 20})) == 1


def test_none_is_no_limit_for_retries_and_says_nothing_elsewhere():
    assert attempts_of(resolve({}, None, {"max_retries": None})) is None
    found = resolve({"time_limit": None, "max_age": None, "min_backoff": None}, {"timeLimit": "5s"}, {"max_age": 1000})
    assert (found.time_limit_s, found.max_age_s, found.retry.initial_s) == (5.0, 1.0, 15.0)


def test_infinity_is_no_limit():
    assert resolve({}, None, {"time_limit": math.inf}).time_limit_s is None
    assert resolve({"time_limit": 10**400}, None, {}).time_limit_s is None
    assert resolve({}, None, {"max_backoff": math.inf}).retry.max_s == 604_800.0


def test_nulls_in_a_spec_say_nothing():
    spec = {"timeLimit": None, "maxAge": None, "retry": {"maxAttempts": None, "backoff": None}, "timeLimitGrace": None}
    assert resolve({}, spec, {"time_limit": 5000}).time_limit_s == 5.0
    assert resolve({}, spec, {}) == resolve({}, None, {})


def test_an_actor_with_dramatiqs_backoff_gets_dramatiqs_backoff():
    found = resolve({}, None, {"min_backoff": 1000}).retry
    assert (found.strategy, found.initial_s, found.max_s) == ("dramatiq", 1.0, 604_800.0)


def test_a_queue_with_backoff_decides_the_strategy():
    found = resolve({}, {"retry": {"backoff": {"jitter": 0.1}}}, {"min_backoff": 1000, "max_backoff": 9000}).retry
    assert (found.strategy, found.initial_s, found.max_s, found.jitter) == ("exponential", 1.0, 9.0, 0.1)


def test_a_message_with_backoff_takes_what_it_lacks_from_the_queue():
    queue = {"retry": {"backoff": {"strategy": "linear", "initial": "2s", "max": "20s"}}}
    found = resolve({"max_backoff": 7000}, queue, {}).retry
    assert (found.strategy, found.initial_s, found.max_s) == ("dramatiq", 2.0, 7.0)


def test_thrown_classes_are_errors_to_give_up_on():
    policy = resolve({}, None, {"throws": (LookupError, (OSError,))}).retry
    assert policy.give_up_on == ("builtins.LookupError", "builtins.OSError")
    for error, again in ((KeyError, False), (TimeoutError, False), (ValueError, True)):
        assert decide_retry(policy, attempt=1, error_types=error_types(error), u=0).retry is again


def test_a_queue_replaces_thrown_classes_also_by_an_empty_list():
    actor = {"throws": KeyError}
    assert resolve({}, {"retry": {"giveUpOn": ["OSError"]}}, actor).retry.give_up_on == ("OSError",)
    assert resolve({}, {"retry": {"giveUpOn": []}}, actor).retry.give_up_on == ()
    assert resolve({}, {"retry": {"retryOn": ["OSError"]}}, actor).retry.retry_on == ("OSError",)


def test_a_predicate_replaces_the_actors_count_but_no_higher_one():
    actor = {"retry_when": lambda retries, error: True, "max_retries": 5}
    assert attempts_of(resolve({}, None, actor)) is None
    assert attempts_of(resolve({}, {"retry": {"maxAttempts": 4}}, actor)) == 4
    assert attempts_of(resolve({"max_retries": 1}, None, actor)) == 2
    assert resolve({}, None, actor).retry_when is actor["retry_when"]


def test_flags_are_merged_too():
    assert resolve({}, None, {"store_results": False}).store_results is False
    assert resolve({"store_results": True}, None, {"store_results": False}).store_results is True
    assert resolve({"store_results": None}, None, {"store_results": False}).store_results is False


def test_defaults_come_from_the_settings():
    found = resolve({}, {"timeLimitGrace": "5s"}, {}, PolicyDefaults(time_limit_s=None, time_limit_grace_s=9.0))
    assert (found.time_limit_s, found.time_limit_grace_s) == (None, 5.0)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("max_retries", {"max_retries": "3"}),
        ("max_retries", {"max_retries": True}),
        ("max_retries", {"max_retries": math.nan}),
        ("time_limit", {"time_limit": -1}),
        ("max_age", {"max_age": "1h"}),
        ("min_backoff", {"min_backoff": math.nan}),
        ("min_backoff", {"min_backoff": math.inf}),
        ("throws", {"throws": "ValueError"}),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(field, options):
    with pytest.raises(InvalidInputError) as caught:
        resolve(options, None, {})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("max_retries", "attempts"), [(-1, 1), (-math.inf, 1), (0, 1), (2.5, 4), (math.inf, None), (None, None)]
)
def test_retries_are_counted_as_dramatiq_counts_them(max_retries, attempts):
    assert attempts_of(resolve({"max_retries": max_retries}, None, {})) == attempts


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_retries", value) for value in (-1, "many", 2.5, math.nan, math.inf, True)]
    + [(name, value) for name in ("time_limit", "max_age", "max_backoff") for value in (-1, "abc", math.nan, True)]
    + [("min_backoff", math.inf), ("min_backoff", math.nan), ("throws", "ValueError")],
)
def test_options_that_could_never_work_are_refused_before_anything_rests_on_them(field, value):
    with pytest.raises(InvalidInputError) as caught:
        check_options({field: value})
    assert caught.value.field == field


def test_options_that_mean_something_pass():
    check_options({})
    check_options({"max_retries": 0, "min_backoff": 0, "max_backoff": math.inf, "time_limit": math.inf, "max_age": 0.5})
    check_options({"max_retries": None, "time_limit": None, "throws": (ValueError, (KeyError,))})
