"""Watches what runs: time limits, cancellations that no checkpoint hears, and stalls that would hoard work."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from dramatiq.middleware import TimeLimitExceeded

from playbill.errors import PlaybillError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.store.values import Outcome
from playbill.worker.interrupts import CancelInterrupt, LeaseLostInterrupt

if TYPE_CHECKING:
    from playbill.worker.attempt import Attempt
    from playbill.worker.session import WorkerSession

log = get_logger(__name__)

_TICK_S = 0.05
#: Claimed work that has not moved for so long is given back: the jobs before it are longer than expected.
STALL_S = 0.1


class Watchdog:
    """A thread that looks at all running attempts every 50 ms.

    Args:
        session: The worker.
    """

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._stop = threading.Event()
        self._ended = 0
        self._moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="playbill-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            try:
                for attempt in self._session.running():
                    self._look_at(attempt, now)
                self._look_for_stall(now)
            except PlaybillError as error:
                log.warning(events.STORE_ERROR, error=str(error))

    def _look_at(self, attempt: Attempt, now: float) -> None:
        if attempt.abandoned or attempt.concluded:
            return
        settings = self._session.settings
        if attempt.context.lost:
            self._stop_lost(attempt, now)
        elif attempt.cancel_seen_at is not None:
            if now >= attempt.cancel_seen_at + settings.cancel_grace_s:
                attempt.interrupts.interrupt(CancelInterrupt)
            if now >= attempt.cancel_seen_at + settings.cancel_grace_s + attempt.policy.time_limit_grace_s:
                self._session.abandon(attempt, attempt.ended(Outcome.CANCELLED), "a cancelled job does not stop")
        else:
            self._look_at_limits(attempt, now)

    def _stop_lost(self, attempt: Attempt, now: float) -> None:
        attempt.interrupts.interrupt(LeaseLostInterrupt)
        if attempt.lost_seen_at is None:
            attempt.lost_seen_at = now
        elif now >= attempt.lost_seen_at + attempt.policy.time_limit_grace_s:
            reason = "given back: its worker had lost it, and it did not stop"
            self._session.abandon(attempt, attempt.ended(Outcome.RELEASE, reason), "a lost job does not stop")

    def _look_at_limits(self, attempt: Attempt, now: float) -> None:
        # Copies: the actor's thread clears both the moment its function returns.
        soft_at, hard_at = attempt.soft_at, attempt.hard_at
        if soft_at is None or hard_at is None:
            return
        if now >= soft_at and attempt.interrupts.interrupt(TimeLimitExceeded):
            log.warning(events.JOB_TIME_LIMIT, job_id=attempt.claimed.id, actor=attempt.claimed.actor)
        if now >= hard_at:
            reason = (
                f"did not stop within {attempt.policy.time_limit_grace_s:g} s after its time limit of "
                f"{attempt.policy.time_limit_s or 0:g} s; the process was replaced"
            )
            self._session.abandon(attempt, attempt.failure("TimeLimitExceeded", reason), "hard time limit")

    def _look_for_stall(self, now: float) -> None:
        slots = self._session.slots
        nothing_held = slots.unstarted == 0 and slots.claimed < slots.threads  # with all slots busy, messages may wait
        if slots.ended != self._ended or nothing_held:
            self._ended = slots.ended
            self._moved_at = now
        elif now - self._moved_at >= STALL_S:
            self._moved_at = now
            self._session.unhoard()
