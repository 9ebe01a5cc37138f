"""Waiting on conditions: never a sleep that hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, deadline_s: float = 10.0, what: str = "") -> T:
    """Wait until ``condition`` answers something true and return that; fail after ``deadline_s``."""
    deadline = time.monotonic() + deadline_s
    pause_s = 0.002
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}; last answer: {answer!r}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
