"""Playbill's own middleware: the verdict on an attempt, and what hangs on it.

They act only on messages that carry an ``attempt`` (put there by the worker), so a producer has the same middleware,
hence the same actor options, and pays nothing. After a message they run in reverse order: ``VerdictMiddleware`` (last
in the list) decides first, callbacks and pipelines see the verdict, ``TrackingMiddleware`` (first) collects it all.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import dramatiq
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread
from dramatiq.middleware import AsyncIO, Callbacks, GroupCallbacks, Interrupt, Middleware, Shutdown
from dramatiq.results import ResultBackend

from playbill.context import running_job
from playbill.errors import ConfigurationError
from playbill.store.port import Store
from playbill.store.values import ErrorRecord

#: A busy machine takes longer to start a thread than the second that Dramatiq gives it.
_LOOP_START_S: Final = 30.0
#: How long tasks may take to be cancelled, and then the loop to end.
_LOOP_END_S: Final = 1.0


class Interruptible(Protocol):
    """What lets an exception into an actor from outside; the worker's ``InterruptGuard`` does it."""

    def interrupt(self, kind: type[Interrupt]) -> bool:
        """Raise ``kind`` in the actor's own function, if that runs; never in the code around it."""


class AttemptHooks(Protocol):
    """What the middleware asks of an attempt; the worker's ``Attempt`` does it."""

    final_failure: bool
    completed: bool
    retries_exhausted: bool

    @property
    def interrupts(self) -> Interruptible:
        """Guards the actor's function."""

    def begin(self) -> None:
        """The message is about to run; raises SkipMessage where it is too old."""

    @property
    def error(self) -> ErrorRecord | None:
        """Why it failed."""

    def judge(self, result: Any, exception: BaseException | None) -> None:
        """Decide what becomes of the job."""

    def conclude(self) -> None:
        """All post-processing is done."""

    def skipped(self) -> None:
        """Some middleware skipped the message."""


def attempt_of(message: Any) -> AttemptHooks | None:
    """The attempt that a worker's message carries, or None for a plain message."""
    attempt: AttemptHooks | None = message.__dict__.get("attempt")
    return attempt


class EventLoopMiddleware(AsyncIO):  # type: ignore[misc, unused-ignore]
    """The loop of async actors, whose thread never outlives its worker: a coroutine that blocks cannot hold it up."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002
        """Start the loop."""
        thread = EventLoopThread(self.logger)
        thread.daemon = True
        thread.start(timeout=_LOOP_START_S)
        set_event_loop_thread(thread)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002
        """Cancel what still runs there and end the loop; what does not let itself be cancelled is left behind."""
        thread = get_event_loop_thread()
        if thread is None:
            return
        set_event_loop_thread(None)
        asyncio.run_coroutine_threadsafe(_wind_up(), thread.loop)
        thread.join(_LOOP_END_S * 2)


async def _wind_up() -> None:
    loop = asyncio.get_running_loop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_LOOP_END_S)
    loop.call_soon(loop.stop)


class TrackingMiddleware(Middleware):  # type: ignore[misc, unused-ignore]
    """First in the list: begins attempts and, after all others, concludes them."""

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:  # noqa: ARG002
        """Begin the attempt."""
        if (attempt := attempt_of(message)) is not None:
            attempt.begin()

    def after_process_message(
        self,
        broker: dramatiq.Broker,  # noqa: ARG002
        message: Any,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        """Conclude the attempt."""
        if (attempt := attempt_of(message)) is not None:
            attempt.conclude()

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:  # noqa: ARG002
        """Conclude an attempt that was skipped."""
        if (attempt := attempt_of(message)) is not None:
            attempt.skipped()


class VerdictMiddleware(Middleware):  # type: ignore[misc, unused-ignore]
    """Last in the list: decides about retry and failure. Takes the place of Dramatiq's Retries, TimeLimit, AgeLimit."""

    @property
    def actor_options(self) -> set[str]:
        """Options of the middleware it replaces, honoured here, and Playbill's own."""
        return {
            "max_retries",
            "min_backoff",
            "max_backoff",
            "retry_when",
            "throws",
            "on_retry_exhausted",
            "time_limit",
            "max_age",
            "sensitive",
        }

    def after_process_message(
        self,
        broker: dramatiq.Broker,  # noqa: ARG002
        message: Any,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Judge the attempt; a message whose job fails for good is marked failed."""
        if (attempt := attempt_of(message)) is not None:
            attempt.judge(result, exception)
            if attempt.final_failure:
                message.fail()


class ShutdownMiddleware(Middleware):  # type: ignore[misc, unused-ignore]
    """``notify_shutdown``: raises ``Shutdown`` in actors that want it when their worker stops.

    Takes the place of Dramatiq's ShutdownNotifications, which raises it wherever the thread happens to be.
    """

    def __init__(self) -> None:
        self._notified: set[AttemptHooks] = set()

    @property
    def actor_options(self) -> set[str]:
        """The option of the middleware it replaces."""
        return {"notify_shutdown"}

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Note an attempt whose actor wants to know."""
        attempt = attempt_of(message)
        wanted = message.options.get("notify_shutdown")
        if wanted is None:
            wanted = broker.get_actor(message.actor_name).options.get("notify_shutdown")
        if attempt is not None and wanted:
            self._notified.add(attempt)

    def after_process_message(self, broker: dramatiq.Broker, message: Any, **_: Any) -> None:  # noqa: ARG002
        """Forget it."""
        if (attempt := attempt_of(message)) is not None:
            self._notified.discard(attempt)

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Forget it."""
        self.after_process_message(broker, message)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002
        """Tell those that run."""
        for attempt in tuple(self._notified):
            attempt.interrupts.interrupt(Shutdown)


class CallbacksMiddleware(Callbacks):  # type: ignore[misc, unused-ignore]
    """``on_success`` when the job completes, ``on_failure`` and ``on_retry_exhausted`` once, at the last verdict."""

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: Any,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Enqueue the callback that fits the verdict, if one is named."""
        attempt = attempt_of(message)
        if attempt is None:
            super().after_process_message(broker, message, result=result, exception=exception)
            return
        if attempt.completed:
            self._send(broker, message, "on_success", result)
        elif attempt.final_failure:
            error = attempt.error
            cause = {"type": error.type, "message": error.message} if error else {"type": "Unknown", "message": ""}
            self._send(broker, message, "on_failure", cause)
            if attempt.retries_exhausted:
                retries = message.options.get("retries", 0)
                self._send(broker, message, "on_retry_exhausted", {"retries": retries, "max_retries": retries})

    @staticmethod
    def _send(broker: dramatiq.Broker, message: Any, option: str, value: Any) -> None:
        name = message.options.get(option) or broker.get_actor(message.actor_name).options.get(option)
        if name:
            name = getattr(name, "actor_name", name)
            broker.get_actor(name).send(message.asdict(), value)


class _GroupBackend:
    """The part of a rate limiter backend that ``group.run`` uses: it opens a group in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, key: str, value: int, ttl: int) -> bool:
        """Open a group of ``value`` members that is forgotten after ``ttl`` ms."""
        self._store.open_group(key, size=value, ttl_s=ttl / 1000)
        return True


class GroupCallbacksMiddleware(GroupCallbacks):  # type: ignore[misc, unused-ignore]
    """Completion callbacks of groups: counted and enqueued in the transaction that finishes the last member."""

    def __init__(self, store: Store) -> None:
        super().__init__(_GroupBackend(store))  # type: ignore[arg-type, unused-ignore]

    def after_process_message(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the finish of a member carries its group (see the worker's attempt)."""


class StoreResults(ResultBackend):  # type: ignore[misc, unused-ignore]
    """Lets ``message.get_result()`` read results from the store, where every finished job keeps its own."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._jobs = store

    def build_message_key(self, message: Any) -> str:
        """The job's id: the store needs no other key."""
        return str(message.message_id)

    def _get(self, message_key: str) -> Any:
        import json

        from dramatiq.results.backend import Missing
        from dramatiq.results.result import wrap_exception

        from playbill.policy.states import JobStatus

        row = self._jobs.get(message_key)
        if row is None or not row.status.is_terminal:
            return Missing
        if row.status is JobStatus.COMPLETED:
            return json.loads(row.result) if row.result is not None else None
        error = row.error
        wrapped = wrap_exception(Exception(error.message if error else str(row.status)))
        if error:
            wrapped["exn"]["type"] = error.type
        return wrapped

    def store_result(self, message: Any, result: Any, ttl: int) -> None:
        """Nothing: the finish stores it."""

    def store_exception(self, message: Any, exception: BaseException, ttl: int) -> None:
        """Nothing: the finish stores it."""


def refuse_replaced(middleware: Middleware) -> None:
    """Refuse Dramatiq's middleware that would act a second time beside Playbill's.

    Raises:
        ConfigurationError: It is Retries, TimeLimit, AgeLimit or ShutdownNotifications.
    """
    from dramatiq.middleware import AgeLimit, Retries, ShutdownNotifications, TimeLimit

    name = type(middleware).__name__
    if isinstance(middleware, ShutdownNotifications):
        raise ConfigurationError(
            f"middleware {name}: Playbill does its work itself; do not add it, set notify_shutdown on actors instead"
        )
    if isinstance(middleware, (AgeLimit, Retries, TimeLimit)):
        raise ConfigurationError(
            f"middleware {name}: Playbill does its work itself and honours its actor options; do not add it, "
            "set defaults in the JobQueue instead"
        )


def collecting() -> list[Any] | None:
    """Where enqueues of a job's post-processing are gathered, or None outside of it."""
    context = running_job()
    return context.follow_ups if context is not None else None
