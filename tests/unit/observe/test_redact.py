from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.observe.redact import (
    MASK,
    MIN_SECRET_CHARS,
    mask_arguments,
    mask_text,
    mask_urls,
    secret_values,
    signature_names,
    text_forms,
)


def send_code(user: str, code: str, *rest: str, channel: str = "sms") -> None:
    """An actor with a one-time code."""


NAMES = signature_names(send_code)


def test_names_are_the_positional_parameters_with_the_star_of_the_rest():
    assert NAMES == ("user", "code", "*rest")


def test_a_sensitive_argument_is_masked_by_position():
    assert mask_arguments(("ann", "1234"), {"channel": "mail"}, {"code"}, NAMES) == (("ann", MASK), {"channel": "mail"})


def test_a_sensitive_argument_is_masked_by_keyword():
    assert mask_arguments(("ann",), {"code": "1234"}, {"code"}, NAMES) == (("ann",), {"code": MASK})


def test_all_of_a_sensitive_star_parameter_is_masked():
    assert mask_arguments(("ann", "1", "x", "y"), {}, {"rest"}, NAMES) == (("ann", "1", MASK, MASK), {})


def test_a_position_that_the_signature_does_not_know_is_masked():
    assert mask_arguments(("ann", "1234"), {}, {"code"}, ("user",)) == (("ann", MASK), {})
    assert mask_arguments(("ann",), {}, {"code"}, ()) == ((MASK,), {})


def test_nothing_is_masked_for_an_actor_without_sensitive_arguments():
    assert mask_arguments(("ann", "1"), {"a": 1}, (), ()) == (("ann", "1"), {"a": 1})
    assert secret_values(("ann", "1"), {"a": 1}, (), ()) == ()


def test_secret_values_are_what_is_masked():
    assert secret_values(("ann", "1234"), {"channel": "sms"}, {"code", "channel"}, NAMES) == ("1234", "sms")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("code 123456 refused", "123456"),
        ("code 123456 refused", 123456),
        ("KeyError: {'token': 'abcdef'}", {"token": "abcdef"}),
        ("user abcdef unknown", {"deep": [{"token": "abcdef"}]}),
        ('body {"token": "abcdef"}', {"token": "abcdef"}),
        ('body {"token":"abcdef"}', {"token": "abcdef"}),
        ("ValueError('a\\nbc')", "a\nbc"),
        ("r\\u00e9set", "réset"),
    ],
)
def test_every_form_of_a_secret_is_masked(text, value):
    masked = mask_text(text, [value])

    assert MASK in masked
    for form in text_forms([value]):
        assert form not in masked


def test_the_longest_form_goes_first():
    assert mask_text("abcdef abc", ["abc", "abcdef"]) == "*** ***"


@pytest.mark.parametrize("value", [None, True, False, "ab", 12, "", [], {}])
def test_values_that_would_blank_out_ordinary_text_are_left(value):
    text = "None True False ab 12 [] {}"
    assert mask_text(text, [value]) == text


def test_a_dict_with_short_values_is_masked_as_a_whole_only():
    assert mask_text("got {'a': 1} and 1", [{"a": 1}]) == "got *** and 1"


@given(
    st.recursive(
        st.text(alphabet=st.characters(exclude_characters="*", exclude_categories=["Cs"]), min_size=MIN_SECRET_CHARS)
        | st.integers(min_value=100),
        lambda children: st.lists(children, min_size=1) | st.dictionaries(st.text(), children, min_size=1),
    )
)
def test_no_form_of_a_secret_survives(value):
    for shape in (str(value), repr(value), json.dumps(value), f"x={value!r};"):
        masked = mask_text(f"<<{shape}>>", [value])
        for leaf in _leaves(value):
            assert str(leaf) not in masked.replace(MASK, "")[2:-2] or str(leaf) in "x=;<<>>"


def _leaves(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://user:secret@host/", "amqp://user:***@host/"),
        ("postgresql+psycopg://u:p/w@rd@host:5432/db", "postgresql+psycopg://u:***@host:5432/db"),
        ("redis://:secret@host", "redis://:***@host"),
        ("postgresql:///db?user=u&password=secret&x=1", "postgresql:///db?user=u&password=***&x=1"),
        ("https://host:8080/path", "https://host:8080/path"),
        ("two amqp://a:b@c and amqp://d:e@f", "two amqp://a:***@c and amqp://d:***@f"),
        ("sqlite:///playbill.db", "sqlite:///playbill.db"),
        ("user:secret@host is no URL", "user:secret@host is no URL"),
    ],
)
def test_passwords_of_urls_are_masked(text, expected):
    assert mask_urls(text) == expected
