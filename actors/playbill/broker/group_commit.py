"""Concurrent enqueues of a process share one commit.

Leader and followers: the first caller commits for all that wait, the others sleep until their answer is there; then
the next one that came meanwhile leads. A single thread never pays a hand-over, many threads pay one commit for all.

A caller may be interrupted anywhere (Ctrl-C, a signal handler that raises). Hence nothing depends on code that has
yet to run: who leads is whoever holds ``_turn``, which ``with`` gives back in any case; what became of a ticket is
written on the ticket; and a wake-up is only a hint, without which a follower looks for itself a little later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from playbill.errors import StoreError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

#: How long a follower sleeps at most before it looks whether anybody leads.
_LOOK_S = 0.2


class _Ticket(Generic[Item, Answer]):
    __slots__ = ("answers", "error", "items", "tried", "wake")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.answers: list[Answer] | None = None
        self.error: Exception | None = None
        self.tried = False  #: a commit of it has begun
        # A bare lock is the cheapest latch: taken here, released by whoever wakes the caller.
        self.wake = threading.Lock()
        self.wake.acquire()

    @property
    def over(self) -> bool:
        return self.answers is not None or self.error is not None

    def rouse(self) -> None:
        try:
            self.wake.release()
        except RuntimeError:
            return  # it was woken before and is not awake yet


class GroupCommit(Generic[Item, Answer]):
    """Gathers items of concurrent callers into calls of ``commit``.

    Args:
        commit: Stores items in one transaction and returns one answer per item, in order.
        max_items: Most items in one call that is shared.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], list[Answer]], *, max_items: int = 500) -> None:
        self._commit = commit
        self._max_items = max_items
        self._turn = threading.Lock()
        #: In the order of their coming; each is put in and, as a rule, taken out by its own caller.
        self._tickets: dict[_Ticket[Item, Answer], None] = {}

    def submit(self, items: Sequence[Item]) -> list[Answer]:
        """Commit ``items``, perhaps together with those of other threads; returns when they are committed.

        Raises:
            StoreError: The thread that committed for this one was interrupted, so the outcome is unknown.
            Exception: What ``commit`` raised for these items; other callers' items are not affected by them.
        """
        ticket: _Ticket[Item, Answer] = _Ticket(items)
        try:
            self._tickets[ticket] = None
            while not ticket.over:
                if self._turn.locked():
                    ticket.wake.acquire(timeout=_LOOK_S)
                else:
                    self._lead(ticket)
        finally:
            self._tickets.pop(ticket, None)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.answers is not None
        return ticket.answers

    def _lead(self, own: _Ticket[Item, Answer]) -> None:
        """Commit one batch, unless somebody has done ``own`` meanwhile; then wake those who are done, and the next."""
        batch: list[_Ticket[Item, Answer]] = []
        try:
            with self._turn:
                if not own.over:
                    batch = self._next_batch()
                    self._run(batch)
        finally:
            # After the turn is given back: who comes now finds it free, who came before is seen here.
            following = next((ticket for ticket in list(self._tickets) if not ticket.over), None)
            if following is not None:
                following.rouse()
            for ticket in batch:
                ticket.rouse()

    def _next_batch(self) -> list[_Ticket[Item, Answer]]:
        """Who waits, as many as may share a commit. Called by the leader only."""
        batch: list[_Ticket[Item, Answer]] = []
        size = 0
        for ticket in list(self._tickets):
            if ticket.tried and not ticket.over:
                ticket.error = StoreError(
                    "the thread that committed for this one was interrupted; the outcome is unknown"
                )
            if ticket.over:
                self._tickets.pop(ticket, None)
                continue
            size += len(ticket.items)
            if batch and size > self._max_items:
                break
            batch.append(ticket)
        return batch

    def _run(self, batch: list[_Ticket[Item, Answer]]) -> None:
        try:
            self._store(batch)
        except Exception as error:  # noqa: BLE001 - handed to the caller it belongs to
            if len(batch) == 1:
                batch[0].error = error
                return
            for ticket in batch:
                ticket.tried = False
            for ticket in batch:
                self._run([ticket])

    def _store(self, batch: list[_Ticket[Item, Answer]]) -> None:
        for ticket in batch:
            ticket.tried = True
        answers = self._commit([item for ticket in batch for item in ticket.items]) if batch else []
        start = 0
        for ticket in batch:
            ticket.answers = answers[start : start + len(ticket.items)]
            start += len(ticket.items)
