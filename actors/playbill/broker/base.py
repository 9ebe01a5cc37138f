"""The Dramatiq broker of Playbill: actors bound to it are tracked, plain ``.send()`` included.

It writes each job to the store first; with RabbitMQ it then hands the message to the publisher. Consuming is the
worker's business: ``playbill.worker`` gives the broker its consumers.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import Middleware, Pipelines
from dramatiq.results import Results

from playbill.broker.group_commit import GroupCommit
from playbill.broker.loop import warn_if_loop_runs
from playbill.broker.middleware import (
    CallbacksMiddleware,
    EventLoopMiddleware,
    GroupCallbacksMiddleware,
    ShutdownMiddleware,
    StoreResults,
    TrackingMiddleware,
    VerdictMiddleware,
    collecting,
)
from playbill.broker.new_job import EnqueueOptions, build_job, check_callbacks, check_queue_name
from playbill.broker.port import Outgoing, Publisher
from playbill.broker.signals import SignalBroker
from playbill.context import running_job
from playbill.errors import ConfigurationError, InvalidInputError, PlaybillError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.policy.enqueue import check_delay_ms
from playbill.policy.resolve import check_options
from playbill.store.port import Store
from playbill.store.values import Handover, Inserted, JobFilter, NewJob

if TYPE_CHECKING:
    from playbill.settings import Settings

log = get_logger(__name__)

#: Makes the consumer of a queue: (queue, prefetch, timeout in ms).
ConsumerFactory = Callable[[str, int, int], dramatiq.Consumer]

_brokers: weakref.WeakSet[PlaybillBroker] = weakref.WeakSet()


class PlaybillBroker(SignalBroker):
    """Tracks every message as a job.

    Args:
        store: Where jobs are kept.
        settings: Limits and intervals.
        make_publisher: Makes the RabbitMQ publisher at first use; None where workers claim from the store.
        middleware: The user's own, added after Playbill's.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        make_publisher: Callable[[], Publisher] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.store = store
        self.settings = settings
        self._make_publisher = make_publisher
        self._publisher: Publisher | None = None
        self._consumers: ConsumerFactory | None = None
        self._reset_threads()
        super().__init__(
            middleware=[
                TrackingMiddleware(),
                EventLoopMiddleware(),
                ShutdownMiddleware(),
                CallbacksMiddleware(),
                Pipelines(),
                GroupCallbacksMiddleware(store),
                Results(backend=StoreResults(store), store_results=True),
                VerdictMiddleware(),
            ]
        )
        self.queues: set[str] = set()
        for item in middleware:
            self.add_middleware(item)
        _brokers.add(self)

    def _reset_threads(self) -> None:
        """Locks and threads belong to one process: made anew after a fork."""
        self._publisher = None
        self._lock = threading.Lock()
        self._group_commit: GroupCommit[NewJob, Inserted] = GroupCommit(self._store_and_publish)

    @property
    def handover(self) -> Handover:
        """How due jobs reach workers here."""
        return Handover.BROKER if self._make_publisher is not None else Handover.STORE

    @property
    def publisher(self) -> Publisher | None:
        """The publisher, started at first use; None without RabbitMQ."""
        if self._publisher is None and self._make_publisher is not None:
            with self._lock:
                if self._publisher is None:
                    self._publisher = self._make_publisher()
        return self._publisher

    # -- Dramatiq's side -----------------------------------------------------------------------------------------
    def get_declared_queues(self) -> set[str]:
        """Names of the queues of all actors declared here."""
        return self.queues.copy()

    def declare_queue(self, queue_name: str) -> None:
        """Note a queue; it is made on the server when something is published to it or consumed from it.

        Raises:
            InvalidInputError: Its name is too long for RabbitMQ.
        """
        check_queue_name(queue_name)
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def declare_actor(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Declare an actor; its function will run under the deadlines of its attempt.

        Raises:
            InvalidInputError: One of its options means nothing, or its queue's name is too long.
        """
        try:
            check_options(actor.options)
        except InvalidInputError as error:
            error.args = (f"actor {actor.actor_name}: {error.args[0]}",)
            raise
        actor.fn = _guarded(actor.fn)
        self.emit_before("declare_actor", actor)
        self.declare_queue(actor.queue_name)
        self.actors[actor.actor_name] = actor
        self.emit_after("declare_actor", actor)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Store a message as a job and hand it to the broker: what ``.send()`` calls.

        Args:
            message: The message; unknown queues and actors are refused outside of jobs.
            delay: Shortest time until it may run: ms, or a timedelta.

        Raises:
            InvalidInputError: The message cannot be accepted; nothing was written.
            StoreUnavailableError: The store cannot be reached; nothing was written.
        """
        gathered = collecting()
        if gathered is not None:
            return self._enqueue_with_finish(message, delay, gathered)
        warn_if_loop_runs()
        options = EnqueueOptions(delay_s=check_delay_ms(delay)) if delay is not None else EnqueueOptions()
        self.emit_before("enqueue", message, delay)
        job = self.build(message, options)
        self.commit([job])
        self.emit_after("enqueue", message, delay)
        return message

    def _enqueue_with_finish(
        self, message: dramatiq.Message[Any], delay: int | None, gathered: list[Any]
    ) -> dramatiq.Message[Any]:
        """Post-processing enqueues: the follow-up commits with the finish of the job that caused it."""
        context = running_job()
        try:
            delay_s = check_delay_ms(delay) if delay is not None else 0.0
            options = EnqueueOptions(delay_s=delay_s, tenant=context.tenant if context else "")
            gathered.append(build_job(self, message, options))
        except PlaybillError as error:
            # Dramatiq swallows what post-processing raises: the finish fails the job with it instead.
            gathered.append(error)
        return message

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 1000) -> dramatiq.Consumer:
        """The worker's consumer of a queue."""
        if self._consumers is None:
            raise ConfigurationError("this process is no Playbill worker: run jobs with `playbill worker`")
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        return self._consumers(queue_name, prefetch, timeout)

    def serve_consumers(self, factory: ConsumerFactory | None) -> None:
        """Give the broker its consumers (called by the worker)."""
        self._consumers = factory

    def flush(self, queue_name: str) -> None:
        """Cancel all waiting jobs of a queue (meant for tests)."""
        from playbill.policy.states import WAITING

        where = JobFilter(queue=queue_name, statuses=tuple(sorted(WAITING)))
        while rows := self.store.find(where, limit=1000):
            self.store.cancel([row.id for row in rows])

    def flush_all(self) -> None:
        """Cancel all waiting jobs of all declared queues (meant for tests)."""
        for queue_name in sorted(self.queues):
            self.flush(queue_name)

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until a queue has no live job (meant for tests).

        Raises:
            QueueNotFound: No actor of this queue is declared.
            QueueJoinTimeout: ``timeout`` ms have passed.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        pause_s = 0.005
        while self._is_live(queue_name):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(f"queue {queue_name} still has live jobs after {timeout} ms")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.1)

    def _is_live(self, queue_name: str) -> bool:
        from playbill.policy.states import TERMINAL, JobStatus

        live = tuple(sorted(set(JobStatus) - TERMINAL))
        return bool(self.store.find(JobFilter(queue=queue_name, statuses=live), limit=1))

    def close(self) -> None:
        """Flush what is published, then close publisher and store connections."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()
        self.store.close()

    # -- Playbill's side -----------------------------------------------------------------------------------------
    def build(self, message: dramatiq.Message[Any], options: EnqueueOptions) -> NewJob:
        """A job to insert, checked.

        Raises:
            InvalidInputError: Unknown actor, queue or callback, or what ``build_job`` refuses.
        """
        if message.actor_name not in self.actors:
            raise InvalidInputError(
                "actor", f"{message.actor_name!r} is not declared here; import the module that defines it"
            )
        if message.queue_name not in self.queues:
            raise InvalidInputError(
                "queue", f"{message.queue_name!r} has no actor here; declared queues: {', '.join(sorted(self.queues))}"
            )
        check_callbacks(self, message)
        return build_job(self, message, options)

    def commit(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        """Insert jobs, together with what other threads enqueue meanwhile, and publish what is due.

        A job with a key may wait for a transaction that holds it, and the thread of a running actor may be interrupted
        at any time: others would wait, or fail, with them. Both commit on their own.
        """
        if running_job() is not None or any(job.key is not None for job in jobs):
            return self._store_and_publish(jobs)
        return self._group_commit.submit(jobs)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Hand messages to the publisher, if there is one."""
        publisher = self.publisher
        if publisher is not None and messages:
            publisher.publish(messages)

    @staticmethod
    def outgoing(jobs: Sequence[NewJob], inserted: Sequence[Inserted]) -> list[Outgoing]:
        """The messages that the store wants published."""
        return [
            Outgoing(answer.id, answer.epoch, job.queue, job.message)
            for job, answer in zip(jobs, inserted, strict=True)
            if answer.publish
        ]

    def _store_and_publish(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        inserted = self.store.insert(jobs, handover=self.handover, relay_after_s=self.settings.relay_after_s)
        self.publish(self.outgoing(jobs, inserted))
        if log.isEnabledFor(logging.DEBUG):  # asked once: a refused line costs more than a row of a bulk
            for job, answer in zip(jobs, inserted, strict=True):
                if answer.created:
                    log.debug(events.JOB_ENQUEUED, job_id=answer.id, actor=job.actor, queue=job.queue)
        return inserted


def _guarded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Run the function under its attempt's deadlines, so that none can fire outside of it."""

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        context = running_job()
        if context is None or context.guard is None:
            return fn(*args, **kwargs)
        guard, context.guard = context.guard, None  # a nested call of another actor is a plain call
        return guard(fn, args, kwargs)

    return guarded


def _after_fork() -> None:
    for broker in list(_brokers):
        broker._reset_threads()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_after_fork)
