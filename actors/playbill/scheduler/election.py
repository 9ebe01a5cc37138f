"""Leadership of one scheduler: a lease in the store, known here by the monotonic clock so that a stale leader stops."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from typing import Final

from playbill.errors import StoreError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics
from playbill.store.port import Store

LEADER_NAME: Final = "scheduler"

_log = get_logger(__name__)


def holder_id() -> str:
    """Identity of this candidate: readable, and new for every process."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Election:
    """This process's share in the leadership.

    Args:
        store: Keeps the lease.
        holder: Identity of this process.
        lease_s: Length of the lease, s.
        every_s: Time between two campaigns, s.
        monotonic: The clock.
    """

    def __init__(
        self, store: Store, *, holder: str, lease_s: float, every_s: float, monotonic: Callable[[], float]
    ) -> None:
        self.holder = holder
        self._store = store
        self._lease_s = lease_s
        self._every_s = every_s
        self._monotonic = monotonic
        self._valid_until: float | None = None
        self._next_at = monotonic()

    @property
    def next_at(self) -> float:
        """When to campaign again, monotonic s."""
        return self._next_at

    @property
    def was_leading(self) -> bool:
        """Whether this process led when it last looked."""
        return self._valid_until is not None

    def leads(self) -> bool:
        """Whether the lease that was last won is still certain to run.

        It counts from before the request was sent, so this clock never outlives the store's.
        """
        return self._valid_until is not None and self._monotonic() < self._valid_until

    def campaign(self) -> None:
        """Take or renew the lease.

        Raises:
            StoreError: The store did not answer; a lease that still runs is kept.
        """
        asked_at = self._monotonic()
        self._next_at = asked_at + self._every_s
        if not self._store.lead(LEADER_NAME, self.holder, lease_s=self._lease_s):
            self.drop("another scheduler leads")
            return
        if self._valid_until is None:
            _log.info(events.LEADER_ELECTED, holder=self.holder, lease_s=self._lease_s)
            metrics().leader.set(1)
        self._valid_until = asked_at + self._lease_s

    def try_in(self, pause_s: float) -> None:
        """Campaign again after ``pause_s``: the store is asked whether it is back by asking it for the lead."""
        self._next_at = self._monotonic() + pause_s

    def drop(self, reason: str) -> None:
        """Stop leading here and now, whatever the store says."""
        if self._valid_until is None:
            return
        self._valid_until = None
        self._next_at = self._monotonic()
        metrics().leader.set(0)
        metrics().show_queues({}, {})
        _log.warning(events.LEADER_LOST, holder=self.holder, reason=reason)

    def resign(self) -> None:
        """Give the lease up, so that another leads at once; a store that is away lets it run out."""
        if self._valid_until is None:
            return
        self._valid_until = None
        metrics().leader.set(0)
        metrics().show_queues({}, {})
        try:
            self._store.resign(LEADER_NAME, self.holder)
        except StoreError as error:
            _log.warning(events.LEADER_RESIGNED, holder=self.holder, error=str(error), left_to="the end of the lease")
        else:
            _log.info(events.LEADER_RESIGNED, holder=self.holder)
