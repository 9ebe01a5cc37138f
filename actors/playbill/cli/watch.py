"""``playbill jobs watch``: live progress of jobs until they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Annotated, Protocol, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from playbill.cli import options
from playbill.cli.boundary import broken_pipe_is_fine
from playbill.cli.exits import EXITS_HELP, ExitCode, one_line
from playbill.cli.jobs import LIVE, require_jobs
from playbill.cli.opened import opened_store
from playbill.cli.output import note, write
from playbill.cli.rows import progress_text
from playbill.policy.states import JobStatus
from playbill.store.port import Store
from playbill.store.values import JobFilter, JobRow

_POLL_S = 0.25
_STYLES = {JobStatus.COMPLETED: "green", JobStatus.FAILED: "red", JobStatus.CANCELLED: "yellow"}


class ProgressView(Protocol):
    """Shows how far jobs are."""

    def update(self, rows: Sequence[JobRow]) -> None:
        """Show the jobs as they are now."""

    def remark(self, text: str) -> None:
        """Show a line that stays."""

    def __enter__(self) -> Self:
        """Start to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""


def register(group: typer.Typer) -> None:
    """Add the command to its group."""
    group.command("watch", epilog=EXITS_HELP)(watch)


def progress_view(titles: dict[str, str] | None = None) -> ProgressView:
    """Live bars on a terminal, lines elsewhere.

    Args:
        titles: What to call a job, by id; its id where none is given.
    """
    return _Bars(titles or {}) if sys.stdout.isatty() else _Lines(titles or {})


class _Bars:
    def __init__(self, titles: dict[str, str]) -> None:
        self._titles = titles
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[items]:<22}", markup=False),
            TextColumn("[{task.fields[style]}]{task.fields[status]:<10}"),
            TimeElapsedColumn(),
            console=Console(),
            refresh_per_second=8,
        )

    def update(self, rows: Sequence[JobRow]) -> None:
        for row in rows:
            if row.id not in self._tasks:
                title = one_line(self._titles.get(row.id, f"{row.id} {row.actor}"))
                self._tasks[row.id] = self._progress.add_task(title, total=None, items="", style="cyan", status="")
            task = self._tasks[row.id]
            done = row.status is JobStatus.COMPLETED
            total = row.total or (1 if done else None)
            self._progress.update(
                task,
                total=total,
                completed=total if done else row.done,
                items=progress_text(row.done, row.total),
                status=str(row.status),
                style=_STYLES.get(row.status, "cyan"),
            )
            if row.status.is_terminal:
                self._progress.stop_task(task)

    def remark(self, text: str) -> None:
        self._progress.console.print(Text(text))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, titles: dict[str, str]) -> None:
        self._titles = titles
        self._seen: dict[str, tuple[JobStatus, int, int | None]] = {}

    def update(self, rows: Sequence[JobRow]) -> None:
        for row in rows:
            state = (row.status, row.done, row.total)
            if self._seen.get(row.id) != state:
                self._seen[row.id] = state
                items = progress_text(row.done, row.total)
                title = self._titles.get(row.id, f"{row.id} {row.actor}")
                self.remark(one_line(f"{title}: {row.status}" + (f", {items}" if items else "")))

    def remark(self, text: str) -> None:
        with broken_pipe_is_fine():
            write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lines need no end."""


def watch(
    ids: options.Ids = None,
    *,
    status: options.Status = None,
    queue: options.Queue = None,
    actor: options.Actor = None,
    tenant: options.Tenant = None,
    tag: options.Tag = None,
    since: options.Since = None,
    until: options.Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Most jobs.")] = 20,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Give up after, for example 10m.")
    ] = None,
) -> None:
    """Show live progress of jobs until all have ended.

    Without ids: the live jobs that match the filters, newest first. Exit code 1 if one failed or was cancelled.
    """
    where = options.make_filter(
        ids=ids, status=status, queue=queue, actor=actor, tenant=tenant, tag=tag, since=since, until=until
    )
    if ids:
        options.require_selection(where, everything=False, command="watch")
    limit_s = options.parse_duration(timeout, field="--timeout") if timeout is not None else None
    with opened_store() as opened:
        if where.ids is None:
            rows = opened.store.find(replace(where, statuses=where.statuses or LIVE), limit=limit)
            where = JobFilter(ids=tuple(row.id for row in rows))
        if not where.ids:
            note("no live job matches")
            return
        code = _follow(opened.store, where.ids, limit_s)
    raise typer.Exit(code)


def _follow(store: Store, ids: tuple[str, ...], limit_s: float | None) -> int:
    deadline = None if limit_s is None else time.monotonic() + limit_s
    last = {row.id: row for row in require_jobs(store, ids)}
    with progress_view() as view:
        while True:
            view.update(list(last.values()))
            live = [job_id for job_id, row in last.items() if not row.status.is_terminal]
            if not live:
                break
            if deadline is not None and time.monotonic() >= deadline:
                note(f"error: {len(live)} jobs have not ended in time")
                return ExitCode.FAILED
            time.sleep(_POLL_S)
            found = {row.id: row for row in store.find(JobFilter(ids=tuple(live)), limit=len(live))}
            for job_id in live:
                if job_id in found:
                    last[job_id] = found[job_id]
                else:
                    view.remark(f"{job_id}: gone, its retention has passed")
                    del last[job_id]
    bad = any(row.status in (JobStatus.FAILED, JobStatus.CANCELLED) for row in last.values())
    return ExitCode.FAILED if bad else ExitCode.OK
