"""Jobs end: rows that are locked here move from the live table to the archive, with their keys and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.policy.states import JobStatus
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.sets import among
from playbill.store.tables import SHARED_COLUMNS, Json
from playbill.store.values import ErrorRecord

HISTORY_LIMIT: Final = 20
TRACEBACK_LIMIT: Final = 8192
MESSAGE_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True)
class Ending:
    """How one job ends. ``row`` is the live row, read under its lock."""

    row: Any
    status: JobStatus
    error: ErrorRecord | None = None
    history: list[Mapping[str, Any]] | None = None  #: the whole history; None keeps the row's
    result: str | None = None
    token: int | None = None
    bump_epoch: bool = False  #: it ends otherwise than by its own attempt
    done: int | None = None
    total: int | None = None
    crashes: int | None = None
    policy_version: int = 0


def cut(error: ErrorRecord) -> ErrorRecord:
    """An error as it is kept: the end of a long traceback says most."""
    return ErrorRecord(
        _clean(error.type[:256]), _clean(error.message[:MESSAGE_LIMIT]), _clean(error.traceback[-TRACEBACK_LIMIT:])
    )


def _clean(text: str) -> str:
    """PostgreSQL has no place for NUL, nor UTF-8 for lone surrogates; an error text may hold either."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def with_entry(row: Any, *, outcome: str, at: datetime, error: ErrorRecord | None) -> list[Mapping[str, Any]]:
    """The row's history with one more ended attempt."""
    entry: dict[str, Any] = {
        "attempt": row.attempt,
        "epoch": row.epoch,
        "at": at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "worker": row.worker,
        "outcome": outcome,
    }
    if error is not None:
        entry["error"] = {"type": error.type, "message": error.message, "traceback": error.traceback}
    return [*(row.history or ()), entry][-HISTORY_LIMIT:]


def cancelled(row: Any, moment: datetime) -> Ending:
    """The end of a job that is cancelled by others than its own attempt."""
    history = with_entry(row, outcome=JobStatus.CANCELLED.value, at=moment, error=None)
    return Ending(row, JobStatus.CANCELLED, history=history, bump_epoch=True)


def bury(database: Database, connection: Connection, endings: Sequence[Ending]) -> None:
    """Move jobs to the archive and give their keys back."""
    if not endings:
        return
    tables = database.tables
    connection.execute(_copy(database), [_values(ending) for ending in endings])
    ids = [ending.row.id for ending in endings]
    connection.execute(sa.delete(tables.jobs).where(among(database, tables.jobs.c.id, ids)))
    keyed = [ending.row.id for ending in endings if ending.row.key is not None]
    if keyed:
        free_keys(database, connection, keyed)


def free_keys(database: Database, connection: Connection, ids: Sequence[str]) -> None:
    """Give the keys of ended jobs back."""
    keys = database.tables.keys
    connection.execute(sa.delete(keys).where(among(database, keys.c.job_id, ids)))


def _copy(database: Database) -> sa.Insert:
    jobs, archive = database.tables.jobs, database.tables.archive
    replaced: dict[str, sa.ColumnElement[Any]] = {
        "status": sa.bindparam("b_status", type_=sa.Text),
        "epoch": jobs.c.epoch + sa.cast(sa.bindparam("b_bump"), sa.BigInteger),
        "token": sa.cast(sa.bindparam("b_token"), sa.BigInteger),
        "done": sa.func.coalesce(sa.cast(sa.bindparam("b_done"), sa.BigInteger), jobs.c.done),
        "total": sa.func.coalesce(sa.cast(sa.bindparam("b_total"), sa.BigInteger), jobs.c.total),
        "error_type": sa.cast(sa.bindparam("b_error_type"), sa.Text),
        "error_message": sa.cast(sa.bindparam("b_error_message"), sa.Text),
        "error_traceback": sa.cast(sa.bindparam("b_error_traceback"), sa.Text),
        "history": sa.bindparam("b_history", type_=Json),
        "wait_reason": sa.null(),
        "crashes": sa.func.coalesce(sa.cast(sa.bindparam("b_crashes"), sa.Integer), jobs.c.crashes),
        "policy_version": sa.cast(sa.bindparam("b_policy_version"), sa.BigInteger),
    }
    columns = [replaced.get(name, jobs.c[name]) for name in SHARED_COLUMNS]
    source = sa.select(*columns, now(), sa.cast(sa.bindparam("b_result"), sa.Text)).where(
        jobs.c.id == sa.bindparam("b_id")
    )
    return sa.insert(archive).from_select([*SHARED_COLUMNS, "finished_at", "result"], source)


def _values(ending: Ending) -> dict[str, Any]:
    error = ending.error
    return {
        "b_id": ending.row.id,
        "b_status": ending.status.value,
        "b_bump": int(ending.bump_epoch),
        "b_token": ending.token,
        "b_done": ending.done,
        "b_total": ending.total,
        "b_error_type": error.type if error else None,
        "b_error_message": error.message if error else None,
        "b_error_traceback": error.traceback if error else None,
        "b_history": ending.row.history if ending.history is None else ending.history,
        "b_crashes": ending.crashes,
        "b_policy_version": ending.policy_version,
        "b_result": ending.result,
    }
