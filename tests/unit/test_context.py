"""What a job may say of its progress."""

from __future__ import annotations

from typing import Any

import pytest

from playbill.context import JobContext
from playbill.errors import InvalidInputError


class Whole:
    """A whole number of another library, such as numpy's."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize("done", [0, 7, 2**63 - 1])
def test_whole_numbers_are_progress(done: int) -> None:
    context = JobContext()
    context.progress(done, done)
    assert (context.done, context.total) == (done, done)


def test_whole_numbers_of_other_libraries_become_plain_ones() -> None:
    context = JobContext()
    context.progress(Whole(), Whole())  # type: ignore[arg-type]
    assert (type(context.done), context.done, context.total) == (int, 7, 7)


@pytest.mark.parametrize("bad", [7.5, 7.0, -1, 2**63, 2**70, True, "7", float("nan")])
def test_what_the_store_cannot_keep_is_refused_at_once_and_nothing_is_noted(bad: Any) -> None:
    context = JobContext()
    context.progress(1, 9)
    with pytest.raises(InvalidInputError, match="done"):
        context.progress(bad)
    with pytest.raises(InvalidInputError, match="total"):
        context.checkpoint(None, 2, bad)
    assert (context.done, context.total) == (1, 9)
