"""Callers that share a commit: whatever happens to one of them, the others get their answers."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest

from playbill.broker import group_commit
from playbill.broker.group_commit import GroupCommit
from playbill.errors import StoreError
from tests.support.waiting import eventually


class Struck(BaseException):
    """An interrupt."""


class Gate:
    """A commit that waits to be let on, and says what it stored."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls: list[list[int]] = []
        self.fails: dict[int, BaseException] = {}

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        assert self.open.wait(20)
        for item in items:
            if item in self.fails:
                raise self.fails[item]
        return [item * 10 for item in items]


class Callers:
    """Threads that submit, and what each got."""

    def __init__(self, group: GroupCommit[int, int]) -> None:
        self.group = group
        self.got: dict[int, Any] = {}
        self._threads: list[threading.Thread] = []

    def start(self, item: int) -> None:
        """Submit in a thread, and wait until the ticket is there."""
        before = len(self.group._tickets)
        thread = threading.Thread(target=self._submit, args=(item,), daemon=True)
        thread.start()
        self._threads.append(thread)
        eventually(lambda: len(self.group._tickets) > before)

    def _submit(self, item: int) -> None:
        try:
            self.got[item] = self.group.submit([item])
        except BaseException as error:  # noqa: BLE001 - what it got
            self.got[item] = error

    def end(self) -> dict[int, Any]:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), f"still asleep; the others got {self.got}"
        return self.got


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def callers(gate: Gate) -> Callers:
    return Callers(GroupCommit(gate))


def test_those_who_come_during_a_commit_share_the_next(gate: Gate, callers: Callers) -> None:
    for item in (1, 2, 3):
        callers.start(item)
    gate.open.set()
    assert callers.end() == {1: [10], 2: [20], 3: [30]}
    assert gate.calls == [[1], [2, 3]]


def test_an_error_is_only_of_the_caller_that_caused_it(gate: Gate, callers: Callers) -> None:
    gate.fails[2] = ValueError("no")
    for item in (1, 2, 3):
        callers.start(item)
    gate.open.set()
    got = callers.end()
    assert (got[1], got[3]) == ([10], [30])
    assert isinstance(got[2], ValueError)


def test_a_shared_commit_is_bounded(gate: Gate) -> None:
    callers = Callers(GroupCommit(gate, max_items=2))
    for item in (1, 2, 3, 4):
        callers.start(item)
    gate.open.set()
    assert callers.end() == {1: [10], 2: [20], 3: [30], 4: [40]}
    assert gate.calls == [[1], [2, 3], [4]]


def test_the_interrupt_of_a_leader_is_not_handed_to_others(gate: Gate, callers: Callers) -> None:
    # Given a leader that will be interrupted while it commits for two
    callers.start(1)
    callers.start(2)
    callers.start(3)
    gate.fails[2] = Struck()
    # When it is
    gate.open.set()
    got = callers.end()
    # Then the interrupt is its own, and the other learns that its outcome is unknown
    leader, follower = sorted((2, 3), key=lambda item: isinstance(got[item], StoreError))
    assert isinstance(got[leader], Struck)
    assert "outcome is unknown" in str(got[follower])
    # And all goes on
    gate.fails.clear()
    assert callers.group.submit([4]) == [40]


def test_the_interrupt_of_a_leader_is_not_handed_to_others_when_a_failed_group_is_tried_one_by_one() -> None:
    # Given a group that fails as a whole, and an interrupt while the second of it is tried alone
    first = threading.Event()

    def commit(items: Sequence[int]) -> list[int]:
        if items == [1]:
            assert first.wait(20)
        if len(items) > 1:
            raise ValueError("not together")
        if items == [3]:
            raise Struck
        return list(items)

    callers = Callers(GroupCommit(commit))
    for item in (1, 2, 3, 4):
        callers.start(item)
    first.set()
    got = callers.end()
    # Then the one that led has it, the one that was being tried does not know, and the third has its answer
    assert isinstance(got[2], Struck)
    assert isinstance(got[3], StoreError)
    assert got[4] == [4]


def _lines() -> list[int]:
    """Where an interrupt may strike: it comes after a call, never between a lock and its ``with``."""
    source, _ = inspect.getsourcelines(group_commit)
    start = source.index("class _Ticket(Generic[Item, Answer]):\n")
    lines = range(start, len(source))
    return [number + 1 for number in lines if source[number].strip() and "with " not in source[number]]


@pytest.mark.parametrize("line", _lines())
def test_wherever_an_interrupt_strikes_nobody_sleeps_for_ever(line: int, gate: Gate, callers: Callers) -> None:
    # Given a leader that is interrupted at this line, once, and others behind it
    def leader() -> None:
        sys.settrace(_striking(line))
        try:
            callers._submit(1)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=leader, daemon=True)
    thread.start()
    eventually(lambda: gate.calls or not thread.is_alive())
    callers.start(2)
    callers.start(3)
    # When all go on
    gate.open.set()
    thread.join(20)
    got = callers.end()
    # Then the others have their answer, or know that there is none, and the next one too
    for item in (2, 3):
        assert got[item] == [item * 10] or isinstance(got[item], StoreError)
    assert callers.group.submit([4]) == [40]
    assert not callers.group._tickets


def _striking(line: int) -> Callable[..., Any]:
    struck = False

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal struck
        if frame.f_code.co_filename != group_commit.__file__:
            return None
        if event == "line" and frame.f_lineno == line and not struck:
            struck = True
            raise Struck
        return trace

    return trace
