"""A worker inside one process: ties Dramatiq's worker, the slots, the claims, the finishes and the lease together."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.common import dq_name, iter_queue

from playbill import __version__
from playbill.broker.base import PlaybillBroker
from playbill.broker.port import Delivery, Intake, Outgoing
from playbill.errors import StoreError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.store.values import Claimed, ClaimRef, ErrorRecord, Finish, Outcome, WorkerInfo
from playbill.worker.consumer import BrokerConsumer, JobConsumer, StoreConsumer
from playbill.worker.finisher import Finisher
from playbill.worker.heartbeat import Heartbeat
from playbill.worker.policies import Policies
from playbill.worker.slots import Slots
from playbill.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from playbill.worker.attempt import Attempt

log = get_logger(__name__)

_POLL_S = {"sqlite": 0.05, "postgresql": 0.1}
_CLOSE_S = 10.0


class WorkerSession:
    """One worker process's work on some queues.

    Args:
        broker: The configured broker; its actors are what this worker knows.
        queues: Weight by queue name.
        threads: Jobs that run at once.
        make_intake: Makes the RabbitMQ intake; None claims from the store.
        on_leaving: Told once, with the reason, when the process should be replaced.
    """

    def __init__(
        self,
        broker: PlaybillBroker,
        *,
        queues: Mapping[str, int],
        threads: int,
        make_intake: Callable[[], Intake] | None = None,
        on_leaving: Callable[[str], None] | None = None,
    ) -> None:
        self.broker = broker
        self.store = broker.store
        self.settings = broker.settings
        self.worker_id = _new_id()
        self.queues = dict(queues)
        self.slots = Slots(threads, self.settings.flush_interval_ms / 1000, self.queues)
        self.policies = Policies(self.store, broker, self.settings)
        self.finisher = Finisher(broker, self.settings, idle=self.slots.idle, refused=self._finish_refused)
        self.heartbeat = Heartbeat(self)
        self.watchdog = Watchdog(self)
        self.poll_s = _POLL_S[self.store.dialect]
        self.alone = False  #: a suspect waits or runs: nothing else is claimed
        self.leaving = False
        self._make_intake = make_intake
        self._on_leaving = on_leaving
        self._intake: Intake | None = None
        self._consumers: dict[str, JobConsumer] = {}
        self._running: dict[int, Attempt] = {}
        self._suspect: Attempt | None = None
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._worker: dramatiq.Worker | None = None

    # -- life ----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Register, take the lease, and start to work."""
        self.policies.load()
        self.register()
        if self._make_intake is not None:
            self._intake = self._make_intake()
        for queue in self.queues:
            self.broker.declare_queue(queue)
        self.broker.serve_consumers(self._consumer)
        self.finisher.start()
        self.heartbeat.start()
        self.watchdog.start()
        self._worker = dramatiq.Worker(
            self.broker, queues=set(self.queues), worker_threads=self.slots.threads, worker_timeout=100
        )
        self._worker.start()
        log.info(events.WORKER_STARTED, worker=self.worker_id, queues=sorted(self.queues), threads=self.slots.threads)

    def register(self) -> None:
        """Make the worker's row with its lease."""
        asked_at = time.monotonic()
        info = WorkerInfo(
            id=self.worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            queues=tuple(sorted(self.queues)),
            actors=tuple(sorted(self.broker.actors)),
            slots=self.slots.threads,
            version=__version__,
        )
        self.store.register_worker(info, lease_s=self.settings.lease_s)
        self.heartbeat.renewed(asked_at)

    def begin_anew(self) -> None:
        """The lease was lost and the jobs are being taken back: go on as another worker, with none of them.

        What runs is told to stop; what it had claimed and not started is given back. Both by their fence, so that it
        does nothing where the rescue was faster.
        """
        for attempt in self.running():
            attempt.context.lost = True
        self.worker_id = _new_id()
        self.register()
        self._release_unstarted("its worker had lost its lease", all_claimed=True)

    def holds(self, attempt: Attempt) -> bool:
        """Whether a claimed job is still this worker's for certain."""
        return attempt.worker == self.worker_id and self.heartbeat.lease_holds

    def leave(self, reason: str) -> None:
        """Take nothing new, because this process should be replaced; its owner drains it."""
        with self._lock:
            if self.leaving:
                return
            self.leaving = True
        log.info(events.WORKER_RECYCLED, worker=self.worker_id, reason=reason)
        if self._on_leaving is not None:
            self._on_leaving(reason)

    def drain(self, grace_s: float) -> bool:
        """Give back at once what has not started, let the rest run, release what is left after ``grace_s``.

        Returns:
            Whether everything ended by itself and was committed.
        """
        with self._lock:
            self.leaving = True
        self._woken.set()
        log.info(events.WORKER_DRAINING, worker=self.worker_id, running=len(self.running()))
        if self._intake is not None:
            for queue in list(self._consumers):
                self._intake.reject_to_broker(self._intake.suspend(queue))
                self._intake.reject_to_broker(self._intake.suspend(dq_name(queue)))
        if self._worker is not None:
            self.broker.emit_before("worker_shutdown", self._worker)
        self._release_unstarted("the worker drains", all_claimed=True)
        deadline = time.monotonic() + grace_s
        while self._unfinished() and time.monotonic() < deadline:
            self.slots.wait_for_change(min(0.1, max(0.001, deadline - time.monotonic())))
            self._release_unstarted("the worker drains", all_claimed=True)
        busy = self.running()
        left = [attempt for attempt in busy if not attempt.abandoned]
        for attempt in left:
            self._abandon(attempt, attempt.ended(Outcome.RELEASE, "released: its worker had to go"))
        stored = self._close(clean=not busy)
        log.info(events.WORKER_STOPPED, worker=self.worker_id, released=len(left), stored=stored)
        return stored and not left

    def _close(self, *, clean: bool) -> bool:
        stored = self.finisher.close(_CLOSE_S)
        self._stop_worker(clean=clean)
        self.watchdog.stop()
        self.heartbeat.stop()
        if self._intake is not None:
            self._intake.close()
        if stored:
            self.store.end_worker(self.worker_id, reason="drained")
        self.broker.serve_consumers(None)
        return stored

    def _stop_worker(self, *, clean: bool) -> None:
        """End Dramatiq's threads; those that run what was released are left behind, for the process ends."""
        worker = self._worker
        if worker is None:
            return
        threads: list[Any] = [*worker.workers, *worker.consumers.values()]
        for thread in threads:
            thread.stop()
        if clean:
            for thread in threads:
                thread.join(_CLOSE_S)
        self.broker.emit_after("worker_shutdown", worker)

    def _unfinished(self) -> bool:
        return self.slots.claimed > sum(1 for attempt in self.running() if attempt.abandoned)

    # -- health --------------------------------------------------------------------------------------------------
    def sick(self) -> str | None:
        """Why this process should be replaced, or None: every thread that it needs must live."""
        worker = self._worker
        if worker is not None and not self.leaving:
            dead = sum(1 for thread in worker.workers if not thread.is_alive())
            dead += sum(1 for thread in worker.consumers.values() if not thread.is_alive())
            if dead:
                return f"{dead} of Dramatiq's threads have died"
        for name, part in (("finisher", self.finisher), ("heartbeat", self.heartbeat), ("watchdog", self.watchdog)):
            if not part.alive and not self.leaving:
                return f"the {name} thread has died"
        if self._intake is not None and not self._intake.alive and not self.leaving:
            return "the intake thread has died"
        return None

    # -- claims --------------------------------------------------------------------------------------------------
    def _consumer(self, queue: str, prefetch: int, timeout_ms: int) -> dramatiq.Consumer:  # noqa: ARG002
        consumer: JobConsumer
        if self._intake is not None:
            consumer = BrokerConsumer(self, queue, timeout_ms, self._intake)
        else:
            consumer = StoreConsumer(self, queue, timeout_ms)
        self._consumers[queue] = consumer
        return consumer

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries that need no claim."""
        if self._intake is not None:
            self._intake.ack(deliveries)

    def defer(self, refs: Sequence[ClaimRef], actor: str) -> None:
        """Put jobs of an unknown actor back."""
        reason = f"no worker knows actor {actor}"
        log.warning(events.JOB_UNKNOWN_ACTOR, actor=actor, jobs=len(refs))
        self.store.defer(
            refs,
            delay_s=self.settings.unknown_actor_retry_s,
            reason=reason,
            fail_after_s=self.settings.unknown_actor_limit_s,
            handover=self.broker.handover,
        )

    def defer_claimed(self, job: Claimed) -> None:
        """Put a claimed job of an unknown actor back."""
        self.defer([ClaimRef(job.id, job.epoch)], job.actor)
        self.slots.finished(0.0, started=False)

    def fail_claimed(self, job: Claimed, kind: str, reason: str) -> None:
        """Fail a claimed job that cannot be run at all."""
        self.finisher.add(_bare_finish(job, Outcome.FAILED, ErrorRecord(kind, reason)))
        self.slots.finished(0.0, started=False)

    def wait(self, timeout_s: float) -> None:
        """A pause that a drain ends."""
        self._woken.wait(timeout_s)

    def idle_wait(self, timeout_s: float) -> None:
        """Pause between two polls of the store."""
        self._woken.wait(timeout_s)

    # -- suspects ------------------------------------------------------------------------------------------------
    def suspects_waiting(self) -> int:
        """Suspects claimed here that have not started."""
        return sum(consumer.suspects() for consumer in list(self._consumers.values()))

    def begin_alone(self, attempt: Attempt) -> bool:
        """Let one suspect run alone; written down before it starts, so that its end can be held against it."""
        with self._lock:
            if self._suspect is not None or self._running:
                return False
            self._suspect = attempt
        try:
            self.store.run_alone(self.worker_id, attempt.claimed.id)
        except StoreError:
            self._suspect = None  # not written down, so not begun: tried again
            raise
        return True

    def _end_alone(self, attempt: Attempt) -> None:
        if self._suspect is not attempt:
            return
        try:
            self.store.run_alone(self.worker_id, None)
        except StoreError as error:
            # The note then names a job that has ended, until the next suspect's replaces it; nothing waits for that.
            log.warning(events.STORE_UNAVAILABLE, error=str(error))
        finally:
            self._suspect = None
            self._recount_suspects()

    def _recount_suspects(self) -> None:
        """Nothing else is claimed while a suspect runs, or waits to."""
        self.alone = self._suspect is not None or self.suspects_waiting() > 0

    # -- attempts ------------------------------------------------------------------------------------------------
    def running(self) -> list[Attempt]:
        """Attempts that threads are busy with."""
        return list(self._running.values())

    def begun(self, attempt: Attempt) -> None:
        """A thread has taken up an attempt."""
        self._running[id(attempt)] = attempt
        self.slots.started()

    def ended(self, attempt: Attempt) -> None:
        """Dramatiq is through with an attempt: commit its finish."""
        started = self._running.pop(id(attempt), None) is not None
        if attempt.may_end():  # else it was given up before, and has stopped after all
            # A middleware failed before or after ours: an unjudged attempt counts as a failure, never as done.
            finish = attempt.finish or attempt.failure("MiddlewareError", "a middleware failed; see the worker's log")
            self.finisher.add(finish)
        begun = attempt.started_at
        self.slots.finished(time.monotonic() - begun if begun is not None else 0.0, started=started)
        if self._suspect is attempt:
            self._end_alone(attempt)
        attempt.let_go()
        limit = self.settings.max_jobs_per_process
        if limit is not None and self.slots.done >= limit:
            self.leave(f"{limit} jobs done")

    def release(self, attempts: Sequence[Attempt], reason: str = "the worker drains") -> None:
        """Give unstarted attempts back."""
        for attempt in attempts:
            if attempt.may_end():
                self.finisher.add(attempt.ended(Outcome.RELEASE, reason))
                self.slots.finished(0.0, started=False)
                self._end_alone(attempt)
        self._recount_suspects()

    def unhoard(self) -> None:
        """Jobs take longer than expected: give back what another worker could start."""
        self.slots.forget_speed()
        self._release_unstarted("given back by a busy worker", all_claimed=False)
        if self._intake is not None:
            for queue in self.queues:
                self._intake.set_prefetch(queue, self.slots.prefetch)

    def _release_unstarted(self, reason: str, *, all_claimed: bool) -> None:
        """Release what Dramatiq's threads have not taken up; with ``all_claimed`` also what they were not given yet."""
        worker = self._worker
        if worker is None:
            return
        attempts: list[Attempt] = []
        for item in iter_queue(worker.work_queue):
            attempts.append(item.message.attempt)
            worker.work_queue.task_done()
        if all_claimed:
            for consumer in list(self._consumers.values()):
                attempts.extend(consumer.give_back())
        if attempts:
            log.info(events.JOB_RELEASED, jobs=len(attempts), reason=reason)
            self.release(attempts, reason)

    def abandon(self, attempt: Attempt, finish: Finish, reason: str) -> None:
        """An attempt does not stop: write its end, and have the process replaced."""
        if self._abandon(attempt, finish):
            self.leave(reason)

    def _abandon(self, attempt: Attempt, finish: Finish) -> bool:
        if not attempt.may_end():
            return False  # it has just stopped by itself
        attempt.abandoned = True
        attempt.context.lost = True
        self.finisher.add(finish)
        return True

    def _finish_refused(self, finish: Finish) -> None:
        self.leave(f"the store refuses the end of job {finish.id}")

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish through the broker."""
        self.broker.publish(messages)


def _new_id() -> str:
    """Readable, and new each time: a lease that was lost is never taken up again."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _bare_finish(job: Claimed, outcome: Outcome, error: ErrorRecord | None = None) -> Finish:
    fields: dict[str, Any] = {"error": error}
    return Finish(job.id, job.epoch, job.token, outcome, job.queue, job.actor, **fields)
