"""``playbill queues list``."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from playbill.cli import options
from playbill.cli.exits import EXITS_HELP
from playbill.cli.opened import opened_store
from playbill.cli.output import Format, print_rows
from playbill.store.values import QueueCounts, QueuePolicy

group = typer.Typer()

_COLUMNS = (
    "id",
    "status",
    "pending",
    "scheduled",
    "retrying",
    "processing",
    "failed",
    "oldest_waiting_s",
    "workers",
    "owner",
)


class QueueStatus(StrEnum):
    """What a queue does now."""

    IDLE = "idle"
    WAITING = "waiting"
    RUNNING = "running"


@group.callback()
def _group() -> None:
    """Keep ``list`` a command of its own though it is the only one."""


@group.command("list", epilog=EXITS_HELP)
def list_queues(
    queue: options.Queue = None,
    status: Annotated[QueueStatus | None, typer.Option("--status", help="Only this status.")] = None,
    limit: options.Limit = 100,
    output: options.Output = Format.TABLE,
) -> None:
    """List queues with how many jobs are in which state."""
    with opened_store() as opened:
        counts = opened.store.queue_counts()
        policies = opened.store.policies()
        workers = opened.store.workers()
    serving = [name for worker in workers for name in worker.queues]
    rows = [_row(count, policies.get(count.queue), serving.count(count.queue)) for count in counts]
    rows = [row for row in rows if queue in (None, row["id"]) and status in (None, row["status"])]
    print_rows(rows[:limit], _COLUMNS, output)


def _row(count: QueueCounts, policy: QueuePolicy | None, workers: int) -> dict[str, Any]:
    figures = asdict(count)
    return {
        "id": figures.pop("queue"),
        "status": _status(count),
        **figures,
        "workers": workers,
        "owner": policy.owner if policy else None,
        "policy_version": policy.version if policy else None,
    }


def _status(count: QueueCounts) -> QueueStatus:
    if count.processing:
        return QueueStatus.RUNNING
    return QueueStatus.WAITING if count.pending else QueueStatus.IDLE
