"""``playbill workers list``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from playbill.cli import options
from playbill.cli.exits import EXITS_HELP
from playbill.cli.opened import opened_store
from playbill.cli.output import Format, print_rows
from playbill.store.values import WorkerRow

group = typer.Typer()

_COLUMNS = ("id", "status", "hostname", "pid", "queues", "slots", "running", "version", "heartbeat_at")


class WorkerStatus(StrEnum):
    """What a worker that is alive says of itself."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


@group.callback()
def _group() -> None:
    """Keep ``list`` a command of its own though it is the only one."""


@group.command("list", epilog=EXITS_HELP)
def list_workers(
    queue: options.Queue = None,
    actor: options.Actor = None,
    status: Annotated[WorkerStatus | None, typer.Option("--status", help="Only this status.")] = None,
    limit: options.Limit = 100,
    output: options.Output = Format.TABLE,
) -> None:
    """List workers that are alive: one row a process."""
    with opened_store() as opened:
        workers = opened.store.workers()
    rows = [
        _row(worker)
        for worker in workers
        if (queue is None or queue in worker.queues)
        and (actor is None or actor in worker.actors)
        and status in (None, worker.state)
    ]
    print_rows(rows[:limit], _COLUMNS, output)


def _row(worker: WorkerRow) -> dict[str, Any]:
    return {
        "id": worker.id,
        "status": worker.state,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "queues": ",".join(worker.queues),
        "actors": ",".join(worker.actors),
        "slots": worker.slots,
        "running": len(worker.running),
        "running_jobs": ",".join(worker.running),
        "version": worker.version,
        "started_at": worker.started_at,
        "heartbeat_at": worker.heartbeat_at,
        "lease_expires_at": worker.lease_expires_at,
    }
