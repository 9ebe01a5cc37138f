"""Removes the outbox rows of messages that the broker has confirmed, in groups, off everybody's path.

Losing a group is harmless: the relay publishes those jobs once more and the claim's fence drops the duplicates.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from playbill.broker.port import Outgoing
from playbill.errors import StoreError
from playbill.store.values import ClaimRef

if TYPE_CHECKING:
    from playbill.store.port import Store

_INTERVAL_S = 0.1
_MAX_BATCH = 2_000
_MAX_KEPT = 50_000

log = structlog.get_logger(__name__)


class OutboxSettler:
    """Gathers confirmed messages for up to 100 ms and deletes their outbox rows, unless these are of a newer epoch.

    Args:
        store: Where the outbox is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._condition = threading.Condition()
        self._confirmed: list[ClaimRef] = []
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def confirmed(self, messages: Sequence[Outgoing]) -> None:
        """Note confirmed messages; returns at once, callable from any thread."""
        with self._condition:
            before = len(self._confirmed)
            if before < _MAX_KEPT:
                self._confirmed.extend([ClaimRef(message.id, message.epoch) for message in messages])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="playbill-settler", daemon=True)
                self._thread.start()
            # Only where the thread has something to do: a wake-up at each confirm costs a tenth of an enqueue.
            if not before or before < _MAX_BATCH <= len(self._confirmed):
                self._condition.notify_all()

    def close(self, timeout_s: float = 5.0) -> None:
        """Settle what is left, for at most ``timeout_s``, and stop."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._confirmed or self._closing)
                if not self._closing:
                    # More confirms follow closely: one delete for all of them.
                    self._condition.wait_for(
                        lambda: self._closing or len(self._confirmed) >= _MAX_BATCH, timeout=_INTERVAL_S
                    )
                batch, self._confirmed = self._confirmed[:_MAX_BATCH], self._confirmed[_MAX_BATCH:]
                if not batch:
                    return
            try:
                self._store.settle(batch)
            except StoreError as error:
                log.warning("outbox.settle_failed", jobs=len(batch), error=str(error))
                if not self._wait_for_store(batch):
                    return
            except Exception:  # the thread must go on; the relay publishes these once more
                log.exception("outbox.settle_failed", jobs=len(batch))

    def _wait_for_store(self, batch: list[ClaimRef]) -> bool:
        with self._condition:
            if self._closing:
                return False
            self._confirmed = [*batch, *self._confirmed][:_MAX_KEPT]
            self._condition.wait_for(lambda: self._closing, timeout=1.0)
            return True
