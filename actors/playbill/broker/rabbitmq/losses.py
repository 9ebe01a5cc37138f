"""Says that messages were left to the relay: at once, and while it goes on once in a while with their number."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from playbill.observe import events
from playbill.observe.log import get_logger

log = get_logger(__name__)

INTERVAL_S: Final = 5.0


class LossLog:
    """Counts what a publisher drops, and logs it by reason at most once in :data:`INTERVAL_S`.

    A producer that goes on while the broker is down would write a line for each call.

    Args:
        monotonic: The clock, seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._unsaid: dict[str, int] = {}
        self._said_at: dict[str, float] = {}

    def note(self, messages: int, reason: str) -> None:
        """Messages were dropped."""
        if messages <= 0:
            return
        now = self._monotonic()
        with self._lock:
            self._unsaid[reason] = self._unsaid.get(reason, 0) + messages
            said_at = self._said_at.get(reason)
            if said_at is not None and now - said_at < INTERVAL_S:
                return
            self._said_at[reason] = now
            count = self._unsaid.pop(reason)
        log.warning(events.PUBLISH_DROPPED, messages=count, reason=reason)

    def say_rest(self) -> None:
        """Log what was counted and not said: nothing more of it is to be expected."""
        with self._lock:
            rest, self._unsaid = self._unsaid, {}
            self._said_at.clear()
        for reason, count in rest.items():
            log.warning(events.PUBLISH_DROPPED, messages=count, reason=reason)
