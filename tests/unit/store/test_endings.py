"""What is kept of errors and attempts, and how times are stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from playbill.store.archive import HISTORY_LIMIT, MESSAGE_LIMIT, TRACEBACK_LIMIT, cut, with_entry
from playbill.store.tables import from_ms, to_ms
from playbill.store.values import ErrorRecord

AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_error_text_can_be_stored(message: str, traceback: str) -> None:
    kept = cut(ErrorRecord("E", message, traceback))
    for text in (kept.message, kept.traceback):
        assert "\x00" not in text
        text.encode()


@given(st.integers(0, 60))
def test_history_keeps_the_last_attempts(count: int) -> None:
    history: list[object] = []
    for attempt in range(count):
        row = SimpleNamespace(attempt=attempt, epoch=attempt, worker="w", history=history)
        history = list(with_entry(row, outcome="retry", at=AT, error=None))
    assert [entry["attempt"] for entry in history] == list(range(max(0, count - HISTORY_LIMIT), count))  # type: ignore[index]


def test_long_texts_are_cut_where_they_say_least() -> None:
    kept = cut(ErrorRecord("E" * 999, "first" + "x" * 9999, "y" * 99_999 + "last"))
    assert kept.message.startswith("first")
    assert kept.traceback.endswith("last")
    assert (len(kept.type), len(kept.message), len(kept.traceback)) == (256, MESSAGE_LIMIT, TRACEBACK_LIMIT)


def test_an_entry_says_when_in_utc() -> None:
    row = SimpleNamespace(attempt=1, epoch=1, worker="w", history=None)
    (entry,) = with_entry(row, outcome="failed", at=AT, error=ErrorRecord("E", "m"))
    assert entry == {
        "attempt": 1,
        "epoch": 1,
        "worker": "w",
        "outcome": "failed",
        "at": "2026-01-02T03:04:05.678Z",
        "error": {"type": "E", "message": "m", "traceback": ""},
    }


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_times_keep_their_order_and_their_milliseconds(moment: datetime) -> None:
    kept = from_ms(to_ms(moment))
    assert timedelta(0) <= moment - kept < timedelta(milliseconds=1)
    assert to_ms(kept) == to_ms(moment)
