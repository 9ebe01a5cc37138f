"""A worker without threads: runs one job at a time, in the caller's thread, on the way that every job goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import PriorityQueue
from typing import Any

import dramatiq
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread
from dramatiq.worker import ConsumerThread, WorkerThread

from playbill import context as contexts
from playbill.broker.base import PlaybillBroker
from playbill.store.values import Finish, Outcome, ProgressUpdate
from playbill.worker.attempt import Attempt
from playbill.worker.consumer import StoreConsumer
from playbill.worker.finisher import Finisher
from playbill.worker.session import WorkerSession

#: Name under which the slots of all queues are counted.
_ALL = "*"


class DirectFinisher(Finisher):
    """Commits at once, in the caller's thread.

    Args:
        session: The worker.
        retry_at_once: Whether a retry is due at once, whatever its backoff.
    """

    def __init__(self, session: WorkerSession, *, retry_at_once: bool) -> None:
        super().__init__(session.broker, session.settings, idle=lambda: True, refused=_refused)
        self._retry_at_once = retry_at_once

    def start(self) -> None:
        """Nothing to start."""

    def add(self, finish: Finish) -> None:
        """Commit."""
        if self._retry_at_once and finish.outcome is Outcome.RETRY:
            finish = replace(finish, delay_s=0.0)
        self._commit_until_done([finish])

    def progress(self, update: ProgressUpdate) -> None:
        """Write."""
        self._write_progress([update])

    def close(self, timeout_s: float) -> bool:  # noqa: ARG002 - as in the base
        """Everything is committed already."""
        return True


class _AnyQueue(dict[str, ConsumerThread]):
    """One consumer for all queues."""

    def __init__(self, consumer: ConsumerThread) -> None:
        super().__init__()
        self._consumer = consumer

    def __missing__(self, queue: str) -> ConsumerThread:
        return self._consumer


class _OneByOne(StoreConsumer):
    """Claims one job, of any queue, whenever it is asked."""

    def next_due(self) -> Attempt | None:
        """The job that has been due for longest, or None."""
        session = self.session
        while not self._ready:
            claimed = session.store.claim_next(sorted(session.broker.queues), 1, worker=session.worker_id)
            if not claimed:
                return None
            self.take_claimed(claimed, worker=session.worker_id)
            self._ready.extend(self._suspects)  # here, everything runs alone
            self._suspects.clear()
        return self._ready.popleft()


class CallerSession(WorkerSession):
    """Runs jobs of a broker's actors in the caller's thread.

    Args:
        broker: The test's broker.
        retry_at_once: Whether a retry is due at once, whatever its backoff.
    """

    def __init__(self, broker: PlaybillBroker, *, retry_at_once: bool) -> None:
        super().__init__(broker, queues={_ALL: 1}, threads=1)
        self.finisher = DirectFinisher(self, retry_at_once=retry_at_once)
        self._source = _OneByOne(self, _ALL, 0)
        self._loop: EventLoopThread | None = None
        self._outer_loop: EventLoopThread | None = None
        self._work: PriorityQueue[Any] = PriorityQueue()
        consumer = ConsumerThread(broker=broker, queue_name=_ALL, prefetch=1, work_queue=self._work, worker_timeout=100)
        consumer.consumer = self._source
        self._thread = WorkerThread(
            broker=broker, consumers=_AnyQueue(consumer), work_queue=self._work, worker_timeout=100
        )

    def start(self) -> None:
        """Begin: Dramatiq's hooks run, so async actors and middleware find what they need."""
        self.policies.load()
        self.register()
        self._worker = dramatiq.Worker(self.broker, worker_threads=1)
        # Dramatiq has one event loop for all async actors; a harness around this one has its own.
        self._outer_loop = get_event_loop_thread()
        self.broker.emit_before("worker_boot", self._worker)
        self._loop = get_event_loop_thread()
        self.broker.emit_after("worker_boot", self._worker)

    def stop(self) -> None:
        """End, in the reverse order."""
        self.leaving = True
        if self._worker is not None:
            self.broker.emit_before("worker_shutdown", self._worker)
            set_event_loop_thread(self._loop)
            self.broker.emit_after("worker_shutdown", self._worker)
            set_event_loop_thread(self._outer_loop)
        self.store.end_worker(self.worker_id, reason="the test is over")

    def holds(self, attempt: Attempt) -> bool:  # noqa: ARG002 - as in the base
        """Always: nobody else works here, and a debugger may stop this process for longer than a lease."""
        return True

    def run_next(self) -> str | None:
        """Run the job that has been due for longest; its end is committed when this returns.

        Returns:
            The job's id; None where no job is due.
        """
        attempt = self._source.next_due()
        if attempt is None:
            return None
        self._work.put(0)
        self._work.get()
        with _outside_of_jobs():
            self._thread.process_message(attempt.message)
        return attempt.claimed.id


def _refused(finish: Finish) -> None:
    raise AssertionError(f"the store refuses the end of job {finish.id} for good: {finish}")


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """A job does not see the job that enqueued it."""
    outer = contexts.running_job()
    contexts.enter(None)
    try:
        yield
    finally:
        contexts.enter(outer)
