"""Options of an enqueue: what is refused, and in which words."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.errors import InvalidInputError
from playbill.policy.enqueue import check_delay, check_delay_ms, check_priority, check_run_at, check_tags, check_tenant
from playbill.policy.unique import check_key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def refused(field, check, *args, **kw):
    with pytest.raises(InvalidInputError) as caught:
        check(*args, **kw)
    assert caught.value.field == field
    return str(caught.value)


@given(st.integers(1, 10))
def test_priorities_from_1_to_10_pass(priority):
    assert check_priority(priority) == priority


@pytest.mark.parametrize("priority", [0, 11, -1, True, 5.0, "5", None])
def test_other_priorities_are_refused_and_the_order_is_said(priority):
    assert "10 goes first" in refused("priority", check_priority, priority)


def test_tags_keep_their_order_and_stand_once():
    assert check_tags(["b", "a", "b"]) == ("b", "a")
    assert check_tags(tag for tag in ("x",)) == ("x",)
    assert check_tags(()) == ()


@pytest.mark.parametrize(
    ("tags", "field"),
    [
        ("stock", "tags"),
        (5, "tags"),
        ([str(n) for n in range(21)], "tags"),
        ([""], "tags"),
        (["a", "b" * 101], "tags[1]"),
        (["a\x00"], "tags[0]"),
        ([5], "tags[0]"),
    ],
)
def test_wrong_tags_are_refused(tags, field):
    refused(field, check_tags, tags)


def test_tenants_are_short_printable_texts():
    assert check_tenant("") == ""
    assert check_tenant("a" * 200) == "a" * 200
    for tenant in ("a" * 201, "a\nb", 7):
        refused("tenant", check_tenant, tenant)


@pytest.mark.parametrize(
    ("delay", "seconds"), [(0, 0.0), (1.5, 1.5), ("10m", 600.0), (timedelta(minutes=1), 60.0), ("0s", 0.0)]
)
def test_delays_are_seconds_timedeltas_or_texts(delay, seconds):
    assert check_delay(delay) == seconds


@pytest.mark.parametrize(
    "delay",
    [
        -1,
        -0.001,
        timedelta(seconds=-1),
        "soon",
        "-5m",
        math.nan,
        math.inf,
        -math.inf,
        True,
        None,
        10**400,
        4e8,
        "9999d",
    ],
)
def test_wrong_delays_are_refused(delay):
    refused("delay", check_delay, delay)


@pytest.mark.parametrize(("delay", "seconds"), [(0, 0.0), (1500, 1.5), (0.5, 0.0005), (timedelta(minutes=1), 60.0)])
def test_dramatiqs_delays_are_milliseconds_or_timedeltas(delay, seconds):
    assert check_delay_ms(delay) == seconds


@pytest.mark.parametrize(
    "delay", [-1, math.nan, math.inf, True, None, "10m", "1000", 10**15, 10**400, timedelta(days=4000), [5]]
)
def test_wrong_delays_in_milliseconds_are_refused(delay):
    refused("delay", check_delay_ms, delay)


def test_a_delay_in_the_past_says_so():
    assert refused("delay", check_delay, -5) == "delay: -5 is in the past; give 0 or more, or leave it out"


@given(st.integers(-60, 10**8))
def test_run_at_may_be_a_minute_late_and_comes_back_in_utc(seconds):
    asked = (NOW + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=5)))
    found = check_run_at(asked, now=NOW)
    assert found == asked
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("run_at", "words"),
    [
        (NOW - timedelta(seconds=61), "is in the past"),
        (NOW.replace(tzinfo=None), "has no time zone"),
        (NOW + timedelta(days=3651), "more than 3650 days ahead"),
        ("2026-03-01", "is not a datetime"),
        (NOW.date(), "is not a datetime"),
    ],
)
def test_wrong_times_are_refused(run_at, words):
    assert words in refused("run_at", check_run_at, run_at, now=NOW)


def test_keys_that_look_the_same_are_the_same():
    assert check_key("cafe\u0301") == check_key("caf\u00e9") == "caf\u00e9"


@given(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=60))
def test_checked_keys_pass_again_unchanged(key):
    once = check_key(key)
    assert check_key(once) == once


@pytest.mark.parametrize("key", ["", " ", "a ", "a\x00b", "a\nb", "\ud800", 5, None, b"a"])
def test_wrong_keys_are_refused(key):
    refused("key", check_key, key)


def test_keys_are_measured_in_bytes():
    assert len(check_key("\u00e9" * 256).encode()) == 512
    assert "over 512" in refused("key", check_key, "\u00e9" * 257)
