"""RabbitMQ URLs: every character of a password, several hosts, and errors that never show the password."""

from __future__ import annotations

import ssl
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.broker.rabbitmq.parameters import parse_url, turns
from playbill.errors import ConfigurationError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(user=TEXT, password=TEXT, vhost=TEXT)
def test_every_character_of_user_password_and_vhost_comes_through(user: str, password: str, vhost: str) -> None:
    user_, password_, vhost_ = (quote(each, safe="") for each in (user, password, vhost))
    (found,) = parse_url(f"amqp://{user_}:{password_}@host:1234/{vhost_}")
    assert (found.credentials.username, found.credentials.password) == (user, password)
    assert (found.virtual_host, found.host, found.port) == (vhost, "host", 1234)


@given(secret=TEXT, rest=st.sampled_from(["@host", "@host/%2F", "@h:x/", "@host/?heartbeat=x"]))
def test_no_error_shows_a_password_that_was_not_encoded(secret: str, rest: str) -> None:
    assert "s3cret" not in _complaint(f"amqp://user:s3cret{secret}/s3cret{rest}")


@pytest.mark.parametrize("mark", ["/", "?", "#", "@/", "@?", "@#"])
def test_a_password_that_needs_encoding_is_refused_and_not_shown(mark: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_url(f"amqp://user:s3cret{mark}s3cret@host:5672/%2F")
    assert "PLAYBILL_BROKER_URL" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_defaults_are_those_of_amqp() -> None:
    (plain,) = parse_url("amqp://host")
    assert (plain.port, plain.virtual_host, plain.credentials.username) == (5672, "/", "guest")
    assert not plain.ssl_options
    (secure,) = parse_url("amqps://host")
    assert secure.port == 5671
    assert secure.ssl_options.context.verify_mode is ssl.CERT_REQUIRED


def test_an_empty_password_stays_empty() -> None:
    (found,) = parse_url("amqp://user:@host")
    assert (found.credentials.username, found.credentials.password) == ("user", "")


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_hosts_of_a_cluster_are_tried_in_turn(separator: str) -> None:
    found = parse_url(f"amqp://u:p@one{separator}two:5000{separator}[::1]:5001/v")
    assert [(each.host, each.port) for each in found] == [("one", 5672), ("two", 5000), ("::1", 5001)]
    assert [turns(found, attempt).host for attempt in range(4)] == ["one", "two", "::1", "one"]


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("heartbeat=²", "whole seconds"),
        ("keyfile={file}", "no certfile"),
        ("cafile={file}", "cannot be read"),
        ("certfile={file}", "cannot be read"),
    ],
)
def test_wrong_options_are_refused_in_words(query: str, what: str, tmp_path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ConfigurationError, match=what):
        parse_url(f"amqps://u:p@host/?{query.format(file=junk)}")


def _complaint(url: str) -> str:
    try:
        parse_url(url)
    except ConfigurationError as error:
        return str(error)
    return ""
