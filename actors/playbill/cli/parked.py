"""``playbill parked list | show | redrive | drop``: messages that could not become jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from playbill.broker.port import HEADER_ID
from playbill.cli import options
from playbill.cli.exits import EXITS_HELP
from playbill.cli.opened import Opened, opened_store
from playbill.cli.output import Format, print_object, print_rows, write
from playbill.cli.rows import read_call
from playbill.errors import InvalidInputError, JobNotFoundError
from playbill.store.port import Store
from playbill.store.values import NewJob, ParkedMessage, Publishable

group = typer.Typer()

_COLUMNS = ("id", "status", "queue", "parked_at", "body_bytes", "reason")
Chosen = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of parked messages.")]


@group.command("list", epilog=EXITS_HELP)
def list_parked(
    queue: options.Queue = None,
    limit: options.Limit = 100,
    output: options.Output = Format.TABLE,
) -> None:
    """List parked messages, newest first."""
    with opened_store() as opened:
        messages = opened.store.parked(limit=options.MAX_LIMIT if queue is not None else limit)
    rows = [_row(message) for message in messages if queue in (None, message.queue)]
    print_rows(rows[:limit], _COLUMNS, output)


@group.command(epilog=EXITS_HELP)
def show(
    parked_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the parked message.")],
    output: options.Output = Format.TABLE,
) -> None:
    """Show a parked message: body, headers, reason."""
    with opened_store() as opened:
        message = _require(opened.store, [parked_id])[0]
    print_object({**_row(message), "headers": dict(message.headers), "body": _shown_body(message.body)}, output)


@group.command(epilog=EXITS_HELP)
def redrive(
    ids: Chosen,
    body: Annotated[
        Path | None,
        typer.Option("--body", metavar="FILE", help="A repaired body to use instead (for one message).", exists=True),
    ] = None,
) -> None:
    """Make jobs of parked messages and remove them from the list."""
    if body is not None and len(ids) != 1:
        raise InvalidInputError("--body", "repairs one message; give one id")
    with opened_store() as opened:
        messages = _require(opened.store, ids)
        # All are read before one is written, so a bad one stops nothing half-way.
        jobs = [_job(message, message.body if body is None else body.read_bytes()) for message in messages]
        for message, job in zip(messages, jobs, strict=True):
            _redrive(opened, message, job)


@group.command(epilog=EXITS_HELP)
def drop(ids: Chosen) -> None:
    """Delete parked messages."""
    with opened_store() as opened:
        _require(opened.store, ids)
        write(f"{len(opened.store.unpark(ids))} dropped")


def _redrive(opened: Opened, message: ParkedMessage, job: NewJob) -> None:
    if opened.store.get(job.id) is None:
        (answer,) = opened.store.insert([job], handover=opened.handover, relay_after_s=opened.settings.relay_after_s)
        if answer.publish:
            opened.publish([Publishable(answer.id, answer.epoch, job.queue, job.message)])
    # Removed after the insert: if this process ends in between, the next redrive finds the job and only removes.
    opened.store.unpark([message.id])
    write(f"{message.id} is job {job.id}")


def _job(message: ParkedMessage, body: bytes) -> NewJob:
    import dramatiq

    try:
        decoded = dramatiq.Message.decode(body)
        job_id, queue, actor = decoded.message_id, decoded.queue_name, decoded.actor_name
    except Exception as error:
        raise InvalidInputError(
            message.id,
            f"is no Dramatiq message ({type(error).__name__}); repair it with --body FILE, or drop it",
        ) from error
    header = message.headers.get(HEADER_ID)
    return NewJob(id=str(header) if header else job_id, queue=queue, actor=actor, message=body)


def _require(store: Store, ids: Sequence[str]) -> list[ParkedMessage]:
    found = {message.id: message for message in store.parked(limit=options.MAX_LIMIT)}
    missing = [parked_id for parked_id in ids if parked_id not in found]
    if missing:
        raise JobNotFoundError(f"no parked message {', '.join(missing)}")
    return [found[parked_id] for parked_id in dict.fromkeys(ids)]


def _row(message: ParkedMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "status": "parked",
        "queue": message.queue,
        "reason": message.reason,
        "parked_at": message.parked_at,
        "body_bytes": len(message.body),
    }


def _shown_body(body: bytes) -> Any:
    """The message with sensitive arguments masked; the raw text where it is no message."""
    call = read_call(body)
    return call.message if call.message is not None else body.decode(errors="backslashreplace")
