"""Jobs go back to waiting: with the broker (and an outbox row until it confirms) or in the store, at a new epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.policy.states import JobStatus
from playbill.store.clock import after
from playbill.store.engine import Database
from playbill.store.tables import Json, UtcTime
from playbill.store.values import ErrorRecord, Handover, Publishable


@dataclass(frozen=True, slots=True)
class Requeue:
    """How one job goes back. ``row`` is the live row, read under its lock, with its message."""

    row: Any
    attempt: int
    delay_s: float = 0.0
    waits_as: JobStatus = JobStatus.SCHEDULED  #: its status until the delay is over
    token: int | None = None  #: of the attempt that ends, so that a repeated finish is recognised
    wait_reason: str | None = None
    error: ErrorRecord | None = None  #: None keeps the row's
    history: list[Mapping[str, Any]] | None = None  #: the whole history; None keeps the row's
    suspect: bool = False
    crashes: int | None = None
    deferred: bool = False  #: back because nobody knows its actor
    done: int | None = None
    total: int | None = None


def requeue(
    database: Database, connection: Connection, items: Sequence[Requeue], *, handover: Handover, relay_after_s: float
) -> list[Publishable]:
    """Put locked jobs back to waiting; returns what the caller is to publish."""
    if not items:
        return []
    connection.execute(_update(database), [_values(item, handover) for item in items])
    at_once = [item.row for item in items if item.delay_s <= 0]
    if handover is Handover.STORE or not at_once:
        return []
    ready = [Publishable(row.id, row.epoch + 1, row.queue, bytes(row.message)) for row in at_once]
    put_in_outbox(database, connection, ready, delay_s=relay_after_s if handover is Handover.BROKER else 0.0)
    return ready if handover is Handover.BROKER else []


def put_in_outbox(database: Database, connection: Connection, jobs: Sequence[Publishable], *, delay_s: float) -> None:
    """Note that the broker has not confirmed these; a row of an older epoch is replaced."""
    if not jobs:
        return
    table = database.tables.outbox
    at = _sql_after(database)
    statement = sa.text(
        f"INSERT INTO {database.tables.prefix}outbox (job_id, epoch, queue, publish_at)"  # noqa: S608 - constants
        f" VALUES (:id, :epoch, :queue, {at}) ON CONFLICT (job_id) DO UPDATE SET epoch = excluded.epoch,"
        " queue = excluded.queue, publish_at = excluded.publish_at"
    ).bindparams(sa.bindparam("epoch", type_=table.c.epoch.type))
    connection.execute(
        statement,
        [{"id": job.id, "epoch": job.epoch, "queue": job.queue, "delay_s": float(delay_s)} for job in jobs],
    )


def _sql_after(database: Database) -> str:
    """``after(:delay_s)`` as text: an upsert is text here, since Core's differs by dialect."""
    expression = after(sa.bindparam("delay_s"))
    compiled = expression.compile(dialect=database.engine.dialect)
    return str(compiled).replace("%(delay_s)s", ":delay_s").replace("?", ":delay_s").replace("::", "\\:\\:")


def _update(database: Database) -> sa.Update:
    jobs = database.tables.jobs
    due = after(sa.bindparam("b_delay"))
    in_store = sa.cast(sa.bindparam("b_in_store"), sa.Boolean)
    text = {name: sa.cast(sa.bindparam(f"b_{name}"), sa.Text) for name in _ERROR_COLUMNS}
    has_error = text["error_type"].is_not(None)
    return (
        sa.update(jobs)
        .where(jobs.c.id == sa.bindparam("b_id"))
        .values(
            status=sa.bindparam("b_status", type_=sa.Text),
            epoch=jobs.c.epoch + 1,
            token=sa.null(),
            last_token=sa.cast(sa.bindparam("b_token"), sa.BigInteger),
            worker=sa.null(),
            started_at=sa.null(),
            attempt=sa.bindparam("b_attempt", type_=sa.Integer),
            run_at=due,
            due_at=sa.case((in_store, due), else_=sa.cast(sa.null(), UtcTime)),
            wait_reason=sa.cast(sa.bindparam("b_wait_reason"), sa.Text),
            suspect=sa.cast(sa.bindparam("b_suspect"), sa.Boolean),
            crashes=sa.func.coalesce(sa.cast(sa.bindparam("b_crashes"), sa.Integer), jobs.c.crashes),
            done=sa.func.coalesce(sa.cast(sa.bindparam("b_done"), sa.BigInteger), jobs.c.done),
            total=sa.func.coalesce(sa.cast(sa.bindparam("b_total"), sa.BigInteger), jobs.c.total),
            history=sa.bindparam("b_history", type_=Json),
            deferred_at=sa.case(
                (
                    sa.cast(sa.bindparam("b_deferred"), sa.Boolean),
                    sa.func.coalesce(jobs.c.deferred_at, after(sa.literal(0.0))),
                ),
                else_=sa.cast(sa.null(), UtcTime),
            ),
            **{name: sa.case((has_error, value), else_=jobs.c[name]) for name, value in text.items()},
        )
    )


_ERROR_COLUMNS = ("error_type", "error_message", "error_traceback")


def _values(item: Requeue, handover: Handover) -> dict[str, Any]:
    waits = item.delay_s > 0
    error = item.error
    return {
        "b_id": item.row.id,
        "b_status": (item.waits_as if waits else JobStatus.PENDING).value,
        "b_delay": max(0.0, float(item.delay_s)),
        "b_in_store": waits or handover is Handover.STORE,
        "b_token": item.token,
        "b_attempt": max(0, item.attempt),
        "b_wait_reason": item.wait_reason,
        "b_suspect": item.suspect,
        "b_crashes": item.crashes,
        "b_done": item.done,
        "b_total": item.total,
        "b_history": item.row.history if item.history is None else item.history,
        "b_deferred": item.deferred,
        "b_error_type": error.type if error else None,
        "b_error_message": error.message if error else None,
        "b_error_traceback": error.traceback if error else None,
    }
