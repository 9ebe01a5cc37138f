"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from playbill.cli.output import Format
from playbill.errors import InvalidInputError
from playbill.policy.states import JobStatus
from playbill.store.values import JobFilter

MAX_LIMIT = 100_000

Output = Annotated[Format, typer.Option("--output", "-o", help="table, or one JSON or YAML array.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=MAX_LIMIT, help="Most rows.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of jobs.", show_default=False)]
Status = Annotated[list[JobStatus] | None, typer.Option("--status", help="Only this status; repeat for more.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Only this queue.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Only this actor.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Only jobs with this tag.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Created at or after: ISO 8601 (UTC if no zone), or an age as 2h."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Created before; as --since.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many jobs it would be.")]
Modules = Annotated[list[str] | None, typer.Argument(metavar="[MODULE]...", help="Python modules with actors.")]


def parse_duration(text: str, *, field: str) -> float:
    """Read a duration such as ``10m``, seconds.

    Raises:
        InvalidInputError: It is none.
    """
    from playbill.spec import duration  # late: pydantic costs more than all else that --help needs

    return duration.parse_duration(text, field=field)


def parse_time(text: str, *, field: str) -> datetime:
    """Read a time: ISO 8601, or a duration that is so long ago.

    Raises:
        InvalidInputError: It is neither, or in no year from 1 to 9999 of UTC.
    """
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text, field=field))
    except InvalidInputError:
        pass  # not an age, so a date
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(
            field, f"{text!r} is neither a time such as 2025-11-03T09:00:00Z nor an age such as 90s, 5m, 2h, 7d"
        ) from None
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise InvalidInputError(field, f"{text!r} lies outside of the years 1 to 9999 in UTC") from None


def make_filter(
    *,
    ids: list[str] | None = None,
    status: list[JobStatus] | None = None,
    queue: str | None = None,
    actor: str | None = None,
    tenant: str | None = None,
    tag: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> JobFilter:
    """A filter from options as they were typed."""
    return JobFilter(
        ids=tuple(dict.fromkeys(ids)) if ids else None,
        statuses=tuple(status) if status else None,
        queue=queue,
        actor=actor,
        tenant=tenant,
        tag=tag,
        created_after=parse_time(since, field="--since") if since is not None else None,
        created_before=parse_time(until, field="--until") if until is not None else None,
    )


def require_selection(where: JobFilter, *, everything: bool, command: str) -> None:
    """Refuse a command that changes jobs without saying which.

    Raises:
        InvalidInputError: Neither ids nor filters nor --all; or ids together with filters.
    """
    filters = any(value is not None for value in (where.queue, where.actor, where.tenant, where.tag)) or any(
        value is not None for value in (where.statuses, where.created_after, where.created_before)
    )
    if where.ids is not None and (filters or everything):
        raise InvalidInputError("ID", "give ids or filters, not both")
    if where.ids is None and not filters and not everything:
        raise InvalidInputError("ID", f"say which jobs to {command}: ids, filters such as --queue, or --all")
