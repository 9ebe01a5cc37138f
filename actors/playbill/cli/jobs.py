"""``playbill jobs list | show | cancel | retry``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from playbill.cli import options
from playbill.cli.exits import EXITS_HELP, ExitCode
from playbill.cli.opened import Opened, opened_store
from playbill.cli.output import Format, note, print_object, print_rows, write
from playbill.cli.rows import JOB_COLUMNS, full_row, list_row, table_row
from playbill.errors import InvalidInputError, JobNotFoundError
from playbill.policy.states import TERMINAL, JobStatus
from playbill.store.port import Store
from playbill.store.values import CancelAnswer, JobFilter, JobRow

group = typer.Typer()

RETRYABLE = (JobStatus.FAILED, JobStatus.CANCELLED)
LIVE = tuple(status for status in JobStatus if status not in TERMINAL)
_BATCH = 1000


@group.command("list", epilog=EXITS_HELP)
def list_jobs(
    *,
    status: options.Status = None,
    queue: options.Queue = None,
    actor: options.Actor = None,
    tenant: options.Tenant = None,
    tag: options.Tag = None,
    since: options.Since = None,
    until: options.Until = None,
    limit: options.Limit = 100,
    output: options.Output = Format.TABLE,
) -> None:
    """List jobs, newest first."""
    where = options.make_filter(
        status=status, queue=queue, actor=actor, tenant=tenant, tag=tag, since=since, until=until
    )
    with opened_store() as opened:
        rows = opened.store.find(where, limit=limit)
        more = opened.store.count(where) - len(rows) if output is Format.TABLE and len(rows) == limit else 0
    shown = table_row if output is Format.TABLE else list_row
    print_rows([shown(row) for row in rows], JOB_COLUMNS, output)
    if more > 0:
        note(f"{more} more match; --limit shows more")


@group.command(epilog=EXITS_HELP)
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")],
    output: options.Output = Format.TABLE,
) -> None:
    """Show all that is known of one job."""
    with opened_store() as opened:
        row = opened.store.get(job_id)
    if row is None:
        raise JobNotFoundError(f"no job {job_id}")
    print_object(full_row(row), output)


@group.command(epilog=EXITS_HELP)
def cancel(
    ids: options.Ids = None,
    *,
    status: options.Status = None,
    queue: options.Queue = None,
    actor: options.Actor = None,
    tenant: options.Tenant = None,
    tag: options.Tag = None,
    since: options.Since = None,
    until: options.Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All live jobs.")] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Cancel jobs: waiting ones end at once, running ones at their next checkpoint."""
    where = options.make_filter(
        ids=ids, status=status, queue=queue, actor=actor, tenant=tenant, tag=tag, since=since, until=until
    )
    options.require_selection(where, everything=everything, command="cancel")
    if where.statuses is not None and (ended := set(where.statuses) & TERMINAL):
        raise InvalidInputError("--status", f"{', '.join(sorted(ended))} jobs have ended; nothing is left to cancel")
    with opened_store() as opened:
        if where.ids is not None:
            _cancel_ids(opened, where.ids, dry_run=dry_run)
        else:
            _cancel_matching(opened.store, replace(where, statuses=where.statuses or LIVE), dry_run=dry_run)


def _cancel_ids(opened: Opened, ids: Sequence[str], *, dry_run: bool) -> None:
    rows = require_jobs(opened.store, ids)
    if dry_run:
        write(f"{sum(not row.status.is_terminal for row in rows)} jobs would be cancelled")
        return
    answers = opened.store.cancel(ids)
    ended = []
    for row in rows:
        answer = answers.get(row.id, CancelAnswer.MISSING)
        if answer in (CancelAnswer.CANCELLED, CancelAnswer.CANCELLING):
            write(f"{row.id} {answer}")
        else:
            ended.append(row.id)
    if ended:
        note(f"error: ended before, nothing to cancel: {', '.join(ended)}")
        raise typer.Exit(ExitCode.FAILED)


def _cancel_matching(store: Store, where: JobFilter, *, dry_run: bool) -> None:
    if dry_run:
        write(f"{store.count(where)} jobs would be cancelled")
        return
    # The jobs are chosen once: what is enqueued meanwhile was not meant.
    ids = [row.id for row in store.find(where, limit=options.MAX_LIMIT)]
    counts = dict.fromkeys(CancelAnswer, 0)
    for start in range(0, len(ids), _BATCH):
        for answer in store.cancel(ids[start : start + _BATCH]).values():
            counts[answer] += 1
    write(f"{counts[CancelAnswer.CANCELLED]} cancelled, {counts[CancelAnswer.CANCELLING]} cancelling")


@group.command(epilog=EXITS_HELP)
def retry(
    ids: options.Ids = None,
    *,
    status: options.Status = None,
    queue: options.Queue = None,
    actor: options.Actor = None,
    tenant: options.Tenant = None,
    tag: options.Tag = None,
    error_type: Annotated[str | None, typer.Option("--error-type", help="Only jobs that failed with this.")] = None,
    since: options.Since = None,
    until: options.Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All failed and cancelled jobs.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=options.MAX_LIMIT, help="Most jobs.")] = options.MAX_LIMIT,
    dry_run: options.DryRun = False,
) -> None:
    """Bring failed or cancelled jobs back, oldest first; their attempts start again at 1."""
    where = options.make_filter(
        ids=ids, status=status, queue=queue, actor=actor, tenant=tenant, tag=tag, since=since, until=until
    )
    options.require_selection(where, everything=everything or error_type is not None, command="retry")
    if not set(where.statuses or ()) <= set(RETRYABLE):
        raise InvalidInputError("--status", "only failed and cancelled jobs can be retried")
    where = replace(where, statuses=where.statuses or RETRYABLE, error_type=error_type)
    with opened_store() as opened:
        if where.ids is not None:
            _require_retryable(require_jobs(opened.store, where.ids))
        _redrive(opened, where, limit=limit, dry_run=dry_run)


def _redrive(opened: Opened, where: JobFilter, *, limit: int, dry_run: bool) -> None:
    answer = opened.store.redrive(
        where,
        limit=limit,
        handover=opened.handover,
        relay_after_s=opened.settings.relay_after_s,
        dry_run=dry_run,
    )
    if dry_run:
        write(f"{min(answer.matched, limit)} jobs would be retried")
        return
    opened.publish(answer.publish)
    write(f"{answer.redriven} jobs will run again")
    if answer.skipped:
        note(f"error: {answer.skipped} skipped: their key belongs to a newer job that is not done")
        raise typer.Exit(ExitCode.FAILED)


def _require_retryable(rows: Sequence[JobRow]) -> None:
    for row in rows:
        if row.status not in RETRYABLE:
            note(f"error: job {row.id} is {row.status}; only failed and cancelled jobs can be retried")
            raise typer.Exit(ExitCode.FAILED)


def require_jobs(store: Store, ids: Sequence[str]) -> list[JobRow]:
    """The jobs of these ids, in their order.

    Raises:
        JobNotFoundError: One or more do not exist.
    """
    rows = {row.id: row for row in store.find(JobFilter(ids=tuple(ids)), limit=len(ids))}
    missing = [job_id for job_id in ids if job_id not in rows]
    if missing:
        raise JobNotFoundError(f"no job {', '.join(missing)}")
    return [rows[job_id] for job_id in ids]
