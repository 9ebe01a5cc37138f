"""Durations: what is read, what is written, what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.errors import InvalidInputError
from playbill.spec.duration import MAX_DURATION_S, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("7d", 604_800.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("0s", 0.0),
        ("90m", 5400.0),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "bad",
    ["", "s", "5", "5 m", "-5m", "1.5h", "30m1h", "5m5m", "5x", "1h ", "\u0665m", "9" * 80 + "d", None, True, [], "5M"],
)
def test_what_is_no_duration_is_refused_with_field_and_remedy(bad):
    with pytest.raises(InvalidInputError, match=r"^delay: .*is not a duration; write .*90s") as caught:
        parse_duration(bad, field="delay")
    assert caught.value.field == "delay"


@pytest.mark.parametrize("number", [5, 0, 1.5])
def test_a_bare_number_is_told_its_unit(number):
    with pytest.raises(InvalidInputError, match=f"has no unit; write {number}s"):
        parse_duration(number)


def test_ten_years_are_the_most():
    assert parse_duration("3650d") == MAX_DURATION_S
    with pytest.raises(InvalidInputError, match="longer than 3650d"):
        parse_duration("3650d1ms")


@given(st.integers(0, int(MAX_DURATION_S * 1000)))
def test_written_durations_read_back(milliseconds):
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, int(MAX_DURATION_S * 1000)))
def test_a_written_duration_is_written_the_same_again(milliseconds):
    text = format_duration(milliseconds / 1000)
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_only_finite_durations_are_written(bad):
    with pytest.raises(InvalidInputError):
        format_duration(bad)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(InvalidInputError):
        assert parse_duration(text) >= 0
