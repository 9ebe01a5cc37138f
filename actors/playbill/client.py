"""What services call: configure, enqueue, look after a job."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dramatiq

from playbill.broker.loop import warn_if_loop_runs
from playbill.broker.new_job import EnqueueOptions
from playbill.errors import InvalidInputError
from playbill.handle import JobHandle, Progress
from playbill.policy.enqueue import check_delay, check_priority, check_run_at, check_tags, check_tenant
from playbill.policy.unique import check_key
from playbill.runtime import Runtime, configure, configure_command, make_publisher, reset, runtime, swap
from playbill.store.values import Handover, Inserted, NewJob

__all__ = [
    "EnqueueOptions",
    "JobHandle",
    "JobSpec",
    "Progress",
    "Runtime",
    "aenqueue",
    "aenqueue_many",
    "configure",
    "configure_command",
    "enqueue",
    "enqueue_many",
    "job",
    "make_publisher",
    "reset",
    "runtime",
    "swap",
]

_OPTIONS = ("delay", "run_at", "key", "tenant", "tags", "priority", "session")


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
    return _submit(_specs(jobs), session)


async def aenqueue(actor_or_message: Any, /, *args: Any, session: Any = None, **options: Any) -> JobHandle:
    """:func:`enqueue` for async code: the loop is not blocked. ``session``: an AsyncSession or AsyncConnection."""
    spec = JobSpec(_message(actor_or_message, args), _options(options))
    return (await _submit_async([spec], session))[0]


async def aenqueue_many(jobs: Iterable[Any], *, session: Any = None) -> list[JobHandle]:
    """:func:`enqueue_many` for async code."""
    return await _submit_async(_specs(jobs), session)


async def _submit_async(specs: list[JobSpec], session: Any) -> list[JobHandle]:
    if session is not None and hasattr(session, "run_sync"):
        handles: list[JobHandle] = await session.run_sync(lambda sync: _submit(specs, sync))
        return handles
    if session is not None:
        raise InvalidInputError(
            "session",
            f"{type(session).__module__}.{type(session).__qualname__} is neither an AsyncSession nor an AsyncConnection"
            " of SQLAlchemy's; give one of these, or, if it is not async, call enqueue",
        )
    return await asyncio.to_thread(_submit, specs, None)


def _specs(jobs: Any) -> list[JobSpec]:
    if not isinstance(jobs, Iterable):
        raise InvalidInputError("jobs", f"{jobs!r} is no list of jobs; give a list, even of one")
    return [_spec(index, item) for index, item in enumerate(jobs)]


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
    delay, run_at, key = given.get("delay"), given.get("run_at"), given.get("key")
    tenant, tags, priority = given.get("tenant"), given.get("tags"), given.get("priority")
    if delay is not None and run_at is not None:
        raise InvalidInputError("run_at", "give delay or run_at, not both")
    return EnqueueOptions(
        delay_s=check_delay(delay) if delay is not None else 0.0,
        run_at=check_run_at(run_at, now=datetime.now().astimezone()) if run_at is not None else None,
        key=check_key(key) if key is not None else None,
        tenant=check_tenant(tenant) if tenant is not None else "",
        tags=check_tags(tags) if tags is not None else (),
        priority=check_priority(priority) if priority is not None else 5,
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
