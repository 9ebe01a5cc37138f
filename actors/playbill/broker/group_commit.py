"""Concurrent enqueues of a process share one commit.

Leader and followers: the first caller commits for all that wait, the others sleep until their answer is there; then
the next one that came meanwhile leads. A single thread never pays a hand-over, many threads pay one commit for all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Ticket(Generic[Item, Answer]):
    __slots__ = ("answers", "error", "items", "leads", "wake")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.answers: list[Answer] | None = None
        self.error: BaseException | None = None
        self.leads = False
        # A bare lock is the cheapest latch: taken here, released by whoever wakes the caller.
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit(Generic[Item, Answer]):
    """Gathers items of concurrent callers into calls of ``commit``.

    Args:
        commit: Stores items in one transaction and returns one answer per item, in order.
        max_items: Most items in one call that is shared.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], list[Answer]], *, max_items: int = 500) -> None:
        self._commit = commit
        self._max_items = max_items
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[Item, Answer]] = deque()
        self._busy = False

    def submit(self, items: Sequence[Item]) -> list[Answer]:
        """Commit ``items``, perhaps together with those of other threads; returns when they are committed.

        Raises:
            Exception: What ``commit`` raised for these items; other callers' items are not affected by them.
        """
        ticket: _Ticket[Item, Answer] = _Ticket(items)
        with self._lock:
            self._waiting.append(ticket)
            follow = self._busy
            self._busy = True
        if follow:
            ticket.wake.acquire()
            if not ticket.leads:
                return self._answer(ticket)
        self._lead()
        return self._answer(ticket)

    def _lead(self) -> None:
        """Commit one batch (the caller's ticket is its first), then hand leadership to the next that waits."""
        batch = self._next_batch()
        try:
            self._run(batch)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._busy = following is not None
            if following is not None:
                following.leads = True
                following.wake.release()
            for ticket in batch[1:]:
                ticket.wake.release()

    def _next_batch(self) -> list[_Ticket[Item, Answer]]:
        with self._lock:
            batch = [self._waiting.popleft()]
            size = len(batch[0].items)
            while self._waiting and size + len(self._waiting[0].items) <= self._max_items:
                size += len(self._waiting[0].items)
                batch.append(self._waiting.popleft())
        return batch

    def _run(self, batch: list[_Ticket[Item, Answer]]) -> None:
        if len(batch) == 1:
            self._run_one(batch[0])
            return
        items = [item for ticket in batch for item in ticket.items]
        try:
            answers = self._commit(items)
        except Exception:  # noqa: BLE001 - found again below, alone, by the ticket that caused it
            for ticket in batch:
                self._run_one(ticket)
            return
        start = 0
        for ticket in batch:
            ticket.answers = answers[start : start + len(ticket.items)]
            start += len(ticket.items)

    def _run_one(self, ticket: _Ticket[Item, Answer]) -> None:
        try:
            ticket.answers = self._commit(ticket.items)
        except BaseException as error:  # noqa: BLE001 - handed to the caller it belongs to
            ticket.error = error

    @staticmethod
    def _answer(ticket: _Ticket[Item, Answer]) -> list[Answer]:
        if ticket.error is not None:
            raise ticket.error
        if ticket.answers is None:
            raise RuntimeError("the thread that committed for this one was interrupted; the outcome is unknown")
        return ticket.answers
