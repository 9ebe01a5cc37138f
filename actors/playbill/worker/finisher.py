"""Commits the ends of attempts in groups: one transaction per flush interval, with follow-ups, rollups and progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from playbill.broker.port import Outgoing
from playbill.errors import StoreError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.store.values import ErrorRecord, Finish, Outcome, ProgressUpdate

if TYPE_CHECKING:
    from playbill.broker.base import PlaybillBroker
    from playbill.settings import Settings

log = get_logger(__name__)

_MAX_BATCH = 500
_BUSY_PAUSE_S = 0.1
_MAX_BACKOFF_S = 2.0


class Finisher:
    """A thread that stores finishes and progress.

    While the store is away it keeps them and tries again: results survive an outage of any length.

    Args:
        broker: Publishes follow-ups; knows store and handover.
        settings: Intervals.
        idle: Whether nothing else runs here, so that waiting for more to commit together is in vain.
        refused: Told of a finish that the store refuses for good, which must not be passed over.
    """

    def __init__(
        self,
        broker: PlaybillBroker,
        settings: Settings,
        *,
        idle: Callable[[], bool],
        refused: Callable[[Finish], None],
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._idle = idle
        self._refused = refused
        self._flush_s = settings.flush_interval_ms / 1000
        self._progress_s = settings.progress_interval_ms / 1000
        self._condition = threading.Condition()
        self._finishes: list[Finish] = []
        self._progress: dict[str, ProgressUpdate] = {}
        self._progress_at = 0.0
        self._closing = False
        self._deadline: float | None = None
        self.committed = 0  #: attempts committed by this process
        self._thread = threading.Thread(target=self._run, name="playbill-finisher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def add(self, finish: Finish) -> None:
        """Hand a finish over; returns at once."""
        with self._condition:
            self._finishes.append(finish)
            if len(self._finishes) == 1 or len(self._finishes) >= _MAX_BATCH:
                self._condition.notify()

    def progress(self, update: ProgressUpdate) -> None:
        """Hand progress over; the last value of each interval is written."""
        with self._condition:
            self._progress[update.id] = update
            if len(self._progress) == 1:
                self._condition.notify()

    def close(self, timeout_s: float) -> bool:
        """Commit what is left; False where the store stayed away for ``timeout_s``."""
        with self._condition:
            self._closing = True
            self._deadline = time.monotonic() + timeout_s
            self._condition.notify()
        self._thread.join(timeout_s + 1)
        return not self._thread.is_alive() and not self._finishes

    # -- the thread ----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            batch, updates, closing = self._gather()
            if batch and not self._commit_until_done(batch):
                return
            if updates:
                self._write_progress(updates)
            if closing and not batch:
                return

    def _gather(self) -> tuple[list[Finish], list[ProgressUpdate], bool]:
        with self._condition:
            self._condition.wait_for(self._has_work, timeout=self._progress_wait())
            if self._finishes and not self._closing and not self._idle():
                self._condition.wait_for(
                    lambda: self._closing or len(self._finishes) >= _MAX_BATCH, timeout=self._flush_s
                )
            batch, self._finishes = self._finishes[:_MAX_BATCH], self._finishes[_MAX_BATCH:]
            for finish in batch:
                self._progress.pop(finish.id, None)
            updates: list[ProgressUpdate] = []
            if self._progress and (self._closing or time.monotonic() >= self._progress_at):
                updates = list(self._progress.values())
                self._progress.clear()
                self._progress_at = time.monotonic() + self._progress_s
            return batch, updates, self._closing

    def _has_work(self) -> bool:
        due = bool(self._progress) and time.monotonic() >= self._progress_at
        return bool(self._finishes) or due or self._closing

    def _progress_wait(self) -> float | None:
        return max(0.0, self._progress_at - time.monotonic()) if self._progress else None

    def _commit_until_done(self, batch: list[Finish]) -> bool:
        """Commit, however long the store is away; False where closing ran out of time."""
        pause_s = 0.1
        while True:
            try:
                batch = self._commit(batch)
            except StoreError as error:
                if not error.retryable:
                    return self._commit_singly(batch, error)
                log.warning(events.STORE_UNAVAILABLE, waiting_finishes=len(batch), error=str(error))
            except Exception as error:  # this thread must not die: whatever it is, it is about one of these
                log.exception(events.STORE_ERROR, waiting_finishes=len(batch))
                return self._commit_singly(batch, error)
            else:
                self._add_again(batch)
                return True
            if self._deadline is not None and time.monotonic() >= self._deadline:
                with self._condition:
                    self._finishes = batch + self._finishes
                return False
            with self._condition:
                self._condition.wait_for(lambda: self._closing, timeout=pause_s)
            if self._closing:
                time.sleep(min(pause_s, 0.2))  # the store's next chance, within the deadline
            pause_s = min(pause_s * 2, _MAX_BACKOFF_S)

    def _add_again(self, busy: list[Finish]) -> None:
        """Ends of jobs whose rows are locked, perhaps by a transaction that their actor left open: others go first."""
        if busy:
            with self._condition:
                self._condition.wait_for(lambda: self._closing, timeout=_BUSY_PAUSE_S)
                self._finishes += busy

    def _commit(self, batch: Sequence[Finish]) -> list[Finish]:
        """Commit; returns those whose rows were locked by others."""
        finished = self._broker.store.finish(
            batch, handover=self._broker.handover, relay_after_s=self._settings.relay_after_s
        )
        self._broker.publish([Outgoing(p.id, p.epoch, p.queue, p.message) for p in finished.publish])
        busy = [finish for finish in batch if finish.id in finished.busy]
        if busy:
            batch = [finish for finish in batch if finish.id not in finished.busy]
        self.committed += len(batch)
        if len(finished.applied) < len(batch):
            for finish in batch:
                if finish.id not in finished.applied:
                    log.warning(events.JOB_FENCE_LOST, job_id=finish.id, outcome=finish.outcome.value)
        self._observe(batch)
        return busy

    @staticmethod
    def _observe(batch: Sequence[Finish]) -> None:
        from playbill.observe.metrics import metrics

        metrics().observe_finished(batch)

    def _commit_singly(self, batch: list[Finish], error: Exception) -> bool:
        """The store refuses something in the batch: find it, and fail that job with the reason."""
        if len(batch) > 1:
            outcomes = [self._commit_until_done([finish]) for finish in batch]
            return all(outcomes)
        finish = batch[0]
        log.error(events.STORE_ERROR, job_id=finish.id, error=str(error))
        if finish.error is not None and finish.error.type == "FinishRefused":
            self._refused(finish)
            return True
        record = ErrorRecord("FinishRefused", f"the store refused how the job ended: {error}"[:2000])
        failed = Finish(finish.id, finish.epoch, finish.token, Outcome.FAILED, finish.queue, finish.actor, error=record)
        return self._commit_until_done([failed])

    def _write_progress(self, updates: list[ProgressUpdate]) -> None:
        try:
            self._broker.store.progress(updates)
        except StoreError as error:
            log.warning(events.STORE_UNAVAILABLE, waiting_progress=len(updates), error=str(error))
            with self._condition:
                for update in updates:
                    self._progress.setdefault(update.id, update)
        except Exception:  # as above; progress is told again with the next report, or with the end
            log.exception(events.STORE_ERROR, lost_progress=len(updates))
