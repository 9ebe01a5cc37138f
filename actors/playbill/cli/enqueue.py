"""``playbill enqueue``: one job from the shell."""

from __future__ import annotations

import inspect
import json
import math
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer

from playbill.cli import options
from playbill.cli.exits import EXITS_HELP
from playbill.cli.output import note, write
from playbill.cli.path import working_directory_on_path
from playbill.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("enqueue", epilog=EXITS_HELP)(enqueue)


def enqueue(
    actor: Annotated[str, typer.Argument(metavar="ACTOR", help="module:actor, or a name together with --module.")],
    arguments: Annotated[
        str,
        typer.Argument(metavar="[JSON]", help='Arguments: an array, as ["t1"], or an object, as {"notes": "x"}.'),
    ] = "[]",
    *,
    queue: Annotated[str | None, typer.Option("--queue", help="Another queue than the actor's.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", metavar="DURATION", help="Run after, as 10m.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Unique among jobs that are not done.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Tenant of the job.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Tag of the job; repeat for more.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="1 to 10, 10 first; 5 by default.")] = None,
    module: Annotated[list[str] | None, typer.Option("--module", help="Module with actors; repeat for more.")] = None,
) -> None:
    """Enqueue a job and print its id."""
    args, kwargs = parse_arguments(arguments)
    delay_s = options.parse_duration(delay, field="--delay") if delay is not None else None
    from playbill import client
    from playbill.settings import load

    runtime = client.configure_command(load())
    try:
        found = _find_actor(runtime.broker, actor, module or [])
        _check_call(found, args, kwargs)
        message = found.message(*args, **kwargs)
        if queue is not None:
            if queue in runtime.store.policies():  # known, though none of the actors imported here is at home in it
                runtime.broker.declare_queue(queue)
            message = message.copy(queue_name=queue)
        handle = client.enqueue(message, delay=delay_s, key=key, tenant=tenant, tags=tag, priority=priority)
        publisher = runtime.broker.publisher
        if publisher is not None:
            # What is not confirmed in time is in the store: the relay publishes it.
            publisher.flush(5.0)
    finally:
        client.reset()
    if not handle.created:
        note(f"the key {key!r} belongs to this job, which is not done; nothing new was enqueued")
    write(handle.id)


def parse_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a job from JSON.

    Raises:
        InvalidInputError: It is neither an array nor an object, or holds a number that JSON cannot write.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        raise InvalidInputError("JSON", f"is not valid: {error}; give an array or an object") from None
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        return [], value
    raise InvalidInputError(
        "JSON", f"{text.strip()} is neither an array nor an object; give an array, as [{text.strip()}], or an object"
    )


def _finite(text: str) -> float:
    """A number; Python would take NaN, Infinity and 1e999, which no other reader of the message understands."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def _find_actor(broker: Any, name: str, modules: list[str]) -> Any:
    module_name, _, short = name.rpartition(":")
    working_directory_on_path()
    imported = [import_user_module(each) for each in ([module_name] if module_name else []) + modules]
    if not imported:
        raise InvalidInputError("ACTOR", f"{name!r}: say where it is: module:actor, or --module")
    found = getattr(imported[0], short, None) if module_name else None
    if not hasattr(found, "actor_name"):
        found = broker.actors.get(short)
    if found is None:
        known = ", ".join(sorted(broker.actors)) or "none"
        raise InvalidInputError("ACTOR", f"no actor {short!r} there; actors found: {known}")
    if getattr(found, "broker", None) is not broker:
        raise InvalidInputError(
            "ACTOR",
            f"{short!r} is bound to another broker; remove set_broker() from its module, or call "
            "playbill.configure() there instead",
        )
    return found


def import_user_module(name: str) -> ModuleType:
    """Import a module with actors.

    Raises:
        InvalidInputError: There is none, or it fails.
    """
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        raise InvalidInputError("MODULE", f"cannot import {name}: {type(error).__name__}: {error}") from error


def _check_call(actor: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a call that the actor's signature cannot take: it would fail on every attempt."""
    try:
        signature = inspect.signature(actor.fn)
    except (TypeError, ValueError):
        return  # no signature to go by
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidInputError("JSON", f"does not fit {actor.actor_name}{signature}: {error}") from None
