"""What services call: configure, enqueue, look after a job.

Nothing happens at import. ``configure()`` makes the process's one :class:`Runtime` and sets Dramatiq's broker.
"""

from __future__ import annotations

import asyncio
import atexit
import difflib
import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import dramatiq

from playbill.broker.base import PlaybillBroker, warn_if_loop_runs
from playbill.broker.new_job import EnqueueOptions
from playbill.broker.port import Publisher
from playbill.broker.settler import OutboxSettler
from playbill.errors import (
    ConfigurationError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    JobNotFoundError,
    WaitTimeout,
)
from playbill.policy.enqueue import check_delay, check_priority, check_run_at, check_tags, check_tenant
from playbill.policy.states import JobStatus
from playbill.policy.unique import check_key
from playbill.settings import Settings, load
from playbill.store import open_store
from playbill.store.port import CancelAnswer, Handover, Inserted, JobRow, NewJob, Store

if TYPE_CHECKING:
    from dramatiq.middleware import Middleware

_OPTIONS = ("delay", "run_at", "key", "tenant", "tags", "priority", "session")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a configured process works with: one store, one broker.

    ``pinned``: a test holds it; ``configure()`` answers it whatever settings the code under test gives.
    """

    settings: Settings
    store: Store
    broker: PlaybillBroker
    middleware: tuple[Middleware, ...] = ()
    pinned: bool = False

    def close(self) -> None:
        """Flush and close all connections."""
        self.broker.close()


_runtime: Runtime | None = None
_lock = threading.Lock()


def configure(settings: Settings | None = None, *, middleware: Sequence[Middleware] = (), **overrides: Any) -> Runtime:
    """Read the settings, open the store and make Playbill's broker Dramatiq's global one.

    Call it once, before the modules with actors are imported. A second call with the same settings (or none) answers
    the runtime that is there, so an actor module may call it too.

    Args:
        settings: Ready settings; None reads them from environment and file.
        middleware: Dramatiq middleware of your own, added after Playbill's.
        **overrides: Single settings, for example ``store_url="postgresql://..."``.

    Returns:
        The runtime.

    Raises:
        ConfigurationError: A setting is wrong, or the process is configured otherwise already and has actors.
        StoreNotMigratedError: The store has no tables yet: run ``playbill migrate``.
        StoreTooNewError: The store needs newer code.
    """
    global _runtime  # noqa: PLW0603 - one runtime a process, as Dramatiq has one global broker
    with _lock:
        current = _runtime
        if current is not None and (current.pinned or (settings is None and not overrides and not middleware)):
            dramatiq.set_broker(current.broker)
            return current
        wanted = settings if settings is not None else load(**overrides)
        if current is not None:
            if wanted == current.settings and not middleware:
                dramatiq.set_broker(current.broker)
                return current
            if current.broker.actors:
                raise ConfigurationError(
                    "configure() was called before with other settings and actors are bound to them; "
                    "call it once, before the modules with actors are imported"
                )
            current.close()
        _runtime = _make_runtime(wanted, tuple(middleware))
        dramatiq.set_broker(_runtime.broker)
        return _runtime


def runtime() -> Runtime:
    """The configured runtime.

    Raises:
        ConfigurationError: ``configure()`` was not called.
    """
    if _runtime is None:
        raise ConfigurationError("Playbill is not configured: call playbill.configure() first")
    return _runtime


def reset() -> None:
    """Forget the runtime and close it (for tests and for a process that changes its store)."""
    global _runtime
    with _lock:
        current, _runtime = _runtime, None
    if current is not None:
        current.close()


def swap(other: Runtime | None) -> Runtime | None:
    """Put another runtime in place (for ``playbill.testing``); returns the one that was there, not closed."""
    global _runtime
    with _lock:
        current, _runtime = _runtime, other
    return current


def make_publisher(settings: Settings, store: Store) -> Publisher:
    """A RabbitMQ publisher whose confirms settle the store's outbox."""
    from playbill.broker.rabbitmq.publisher import RabbitPublisher

    if settings.broker_url is None:
        raise ConfigurationError("PLAYBILL_BROKER_URL is not set: there is no broker to publish to")
    settler = OutboxSettler(store)
    return RabbitPublisher(
        settings.broker_url.get_secret_value(), on_confirmed=settler.confirmed, on_closed=settler.close
    )


def _make_runtime(settings: Settings, middleware: tuple[Middleware, ...]) -> Runtime:
    store = open_store(settings)
    store.check()
    maker = None
    if settings.broker_url is not None:
        from playbill.broker.rabbitmq.parameters import parse_url

        parse_url(settings.broker_url.get_secret_value())  # a wrong URL is found here, not at the first publish
        maker = lambda: make_publisher(settings, store)  # noqa: E731 - two names for one line would not be clearer
    broker = PlaybillBroker(store, settings, make_publisher=maker, middleware=middleware)
    return Runtime(settings, store, broker, middleware)


@atexit.register
def _close_at_exit() -> None:
    if _runtime is not None:
        _runtime.close()


# -- enqueue -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job to enqueue: a message with its options (made by :func:`job`)."""

    message: dramatiq.Message[Any]
    options: EnqueueOptions


def job(actor_or_message: Any, /, *args: Any, **options: Any) -> JobSpec:
    """Bundle a job and its options for ``enqueue_many``; takes what ``enqueue`` takes, but no ``session``."""
    if "session" in options:
        raise InvalidInputError("session", "give it to enqueue_many, where it holds for all jobs")
    return JobSpec(_message(actor_or_message, args), _options(options))


def enqueue(actor_or_message: Any, /, *args: Any, session: Any = None, **options: Any) -> JobHandle:
    """Store a job, and hand it to the broker once it is committed.

    Args:
        actor_or_message: An actor, with its positional arguments in ``args``, or a message (``actor.message(...)``),
            which may carry keywords of the actor too.
        *args: The actor's positional arguments.
        session: A SQLAlchemy Session or Connection, or a psycopg connection, of the store's database: the job exists
            if and only if its transaction commits.
        **options: ``delay`` (seconds, timedelta or a text such as "10m"), ``run_at`` (aware datetime), ``key``
            (answers the existing job until that one is done), ``tenant``, ``tags``, ``priority`` (1 to 10, 10 first).

    Returns:
        A handle on the new job, or on the one that holds ``key``.

    Raises:
        InvalidInputError: An option or argument is wrong, or unknown; nothing was written.
        ForeignSessionError: ``session`` belongs to another database.
        StoreUnavailableError: The store cannot be reached; nothing was accepted.
    """
    warn_if_loop_runs()
    spec = JobSpec(_message(actor_or_message, args), _options(options))
    return _submit([spec], session)[0]


def enqueue_many(jobs: Iterable[Any], *, session: Any = None) -> list[JobHandle]:
    """Store many jobs in one round trip, all or none, and publish them in one pipeline.

    Args:
        jobs: Messages, or what :func:`job` makes.
        session: As in :func:`enqueue`.

    Returns:
        Handles in the order given.

    Raises:
        InvalidInputError: One of them is wrong: the error names its index; nothing was written.
    """
    warn_if_loop_runs()
    return _submit([_spec(index, item) for index, item in enumerate(jobs)], session)


async def aenqueue(actor_or_message: Any, /, *args: Any, session: Any = None, **options: Any) -> JobHandle:
    """:func:`enqueue` for async code: the loop is not blocked. ``session``: an AsyncSession or AsyncConnection."""
    spec = JobSpec(_message(actor_or_message, args), _options(options))
    return (await _submit_async([spec], session))[0]


async def aenqueue_many(jobs: Iterable[Any], *, session: Any = None) -> list[JobHandle]:
    """:func:`enqueue_many` for async code."""
    return await _submit_async([_spec(index, item) for index, item in enumerate(jobs)], session)


async def _submit_async(specs: list[JobSpec], session: Any) -> list[JobHandle]:
    if session is not None and hasattr(session, "run_sync"):
        handles: list[JobHandle] = await session.run_sync(lambda sync: _submit(specs, sync))
        return handles
    if session is not None:
        raise InvalidInputError(
            "session",
            f"{type(session).__name__} is not async; give an AsyncSession, an AsyncConnection, or call enqueue",
        )
    return await asyncio.to_thread(_submit, specs, None)


def _spec(index: int, item: Any) -> JobSpec:
    if isinstance(item, JobSpec):
        return item
    if isinstance(item, dramatiq.Message):
        return JobSpec(item, EnqueueOptions())
    raise InvalidInputError(f"jobs[{index}]", f"{item!r} is neither a message nor playbill.job(...)")


def _message(actor_or_message: Any, args: tuple[Any, ...]) -> dramatiq.Message[Any]:
    if isinstance(actor_or_message, dramatiq.Message):
        if args:
            raise InvalidInputError("args", "a message carries its arguments already; give them to actor.message(...)")
        return actor_or_message
    make = getattr(actor_or_message, "message", None)
    if make is None or not hasattr(actor_or_message, "actor_name"):
        raise InvalidInputError("actor", f"{actor_or_message!r} is neither an actor nor a message")
    message: dramatiq.Message[Any] = make(*args)
    return message


def _options(given: dict[str, Any]) -> EnqueueOptions:
    for name in given:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InvalidInputError(
                name, f"unknown option; {hint}an actor's own keywords go through actor.message({name}=...)"
            )
    if given.get("delay") is not None and given.get("run_at") is not None:
        raise InvalidInputError("run_at", "give delay or run_at, not both")
    delay, run_at, key = given.get("delay"), given.get("run_at"), given.get("key")
    return EnqueueOptions(
        delay_s=check_delay(delay) if delay is not None else 0.0,
        run_at=check_run_at(run_at, now=datetime.now().astimezone()) if run_at is not None else None,
        key=check_key(key) if key is not None else None,
        tenant=check_tenant(given.get("tenant") or ""),
        tags=check_tags(given.get("tags") or ()),
        priority=check_priority(given["priority"]) if given.get("priority") is not None else 5,
    )


def _submit(specs: list[JobSpec], session: Any) -> list[JobHandle]:
    active = runtime()
    if not specs:
        return []
    broker = active.broker
    jobs: list[NewJob] = []
    for index, spec in enumerate(specs):
        broker.emit_before("enqueue", spec.message, None)
        try:
            jobs.append(broker.build(spec.message, spec.options))
        except InvalidInputError as error:
            if len(specs) > 1:
                error.args = (f"jobs[{index}].{error.args[0]}",)
            raise
    inserted = broker.commit(jobs) if session is None else _insert_in(session, active, jobs)
    for spec in specs:
        broker.emit_after("enqueue", spec.message, None)
    return [JobHandle(answer.id, created=answer.created, store=active.store) for answer in inserted]


def _insert_in(session: Any, active: Runtime, jobs: list[NewJob]) -> list[Inserted]:
    """Insert in the caller's transaction; publish after its commit where the session tells us of it."""
    from playbill.broker.after_commit import publish_after_commit, session_that_tells

    broker = active.broker
    handover, told = broker.handover, None
    if handover is Handover.BROKER:
        told = session_that_tells(session)
        handover = handover if told is not None else Handover.RELAY
    inserted = active.store.insert(
        jobs, handover=handover, relay_after_s=active.settings.relay_after_s, connection=session
    )
    if told is not None:
        publish_after_commit(told, broker.publish, broker.outgoing(jobs, inserted))
    return inserted


# -- handles -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. ``total`` and ``percent`` are None where the job did not say."""

    done: int
    total: int | None

    @property
    def percent(self) -> int | None:
        """Whole per cent, rounded down (15 of 22: 68)."""
        return self.done * 100 // self.total if self.total else None


class JobHandle:
    """One job, seen from outside.

    Attributes:
        id: The job's id.
        created: False where ``enqueue`` answered an existing job because of its key.
    """

    __slots__ = ("_row", "_store", "created", "id")

    def __init__(self, job_id: str, *, created: bool = True, store: Store | None = None) -> None:
        self.id = job_id
        self.created = created
        self._store = store
        self._row: JobRow | None = None

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    @property
    def store(self) -> Store:
        """The store asked."""
        return self._store if self._store is not None else runtime().store

    def refresh(self) -> JobHandle:
        """Read the job again.

        Raises:
            JobNotFoundError: No such job (its transaction did not commit, or its retention has passed).
        """
        row = self.store.get(self.id)
        if row is None:
            raise JobNotFoundError(f"no job {self.id}: never committed, or past its retention")
        self._row = row
        return self

    @property
    def row(self) -> JobRow:
        """The job as read last (at first use: now)."""
        if self._row is None:
            self.refresh()
        assert self._row is not None
        return self._row

    @property
    def status(self) -> JobStatus:
        """Status as read last."""
        return self.row.status

    @property
    def progress(self) -> Progress:
        """Progress, read now while the job is live."""
        if not self.row.status.is_terminal:
            self.refresh()
        return Progress(self.row.done, self.row.total)

    @property
    def result(self) -> Any:
        """What the actor returned, read now while the job is live; None before the end.

        Raises:
            JobFailed: The job has failed for good.
            JobCancelled: The job was cancelled.
        """
        if not self.row.status.is_terminal:
            self.refresh()
        return self._outcome(self.row) if self.row.status.is_terminal else None

    def wait(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the end.

        Args:
            timeout: Seconds; None waits without end.

        Returns:
            What the actor returned.

        Raises:
            JobFailed: The job has failed for good.
            JobCancelled: The job was cancelled.
            WaitTimeout: The time is over.
        """
        limit_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        deadline = None if limit_s is None else time.monotonic() + limit_s
        pause_s = 0.005
        while not self.refresh().row.status.is_terminal:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(self.id, f"job {self.id} is still {self.row.status} after {limit_s:g} s")
            time.sleep(pause_s if left is None else min(pause_s, left))
            pause_s = min(pause_s * 1.5, 0.25)
        return self._outcome(self.row)

    async def await_result(self, timeout: float | timedelta | None = None) -> Any:  # noqa: ASYNC109 - mirrors wait()
        """:meth:`wait` without blocking the running loop."""
        return await asyncio.to_thread(self.wait, timeout)

    def cancel(self) -> CancelAnswer:
        """Cancel: a waiting job ends at once, a running one is told and stops at its next checkpoint.

        Raises:
            JobNotFoundError: No such job.
        """
        answer = self.store.cancel([self.id])[self.id]
        if answer is CancelAnswer.MISSING:
            raise JobNotFoundError(f"no job {self.id}")
        return answer

    def _outcome(self, row: JobRow) -> Any:
        if row.status is JobStatus.COMPLETED:
            return json.loads(row.result) if row.result is not None else None
        if row.status is JobStatus.CANCELLED:
            raise JobCancelled(self.id, f"job {self.id} was cancelled")
        error = row.error
        raise JobFailed(self.id, error.type if error else "Unknown", error.message if error else "no error was kept")
