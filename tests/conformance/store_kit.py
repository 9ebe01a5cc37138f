"""What the store's tests share: short ways to make jobs, run them, and let time pass in the database."""

from __future__ import annotations

import itertools
from typing import Any

import sqlalchemy as sa

from playbill.store.sql import SqlStore
from playbill.store.values import Claimed, ClaimRef, Finish, Handover, NewJob, Outcome, WorkerInfo

BROKER, RELAY, IN_STORE = Handover.BROKER, Handover.RELAY, Handover.STORE
LEADER = "leader"

_numbers = itertools.count()


def new(id_: str | None = None, **options: Any) -> NewJob:
    """A job with defaults."""
    id_ = id_ or f"job-{next(_numbers):08}"
    return NewJob(**{"id": id_, "queue": "mail", "actor": "send", "message": f"message of {id_}".encode(), **options})


def insert(store: SqlStore, *ids: str, handover: Handover = BROKER, **options: Any) -> list[str]:
    """Insert jobs of these ids."""
    store.insert([new(id_, **options) for id_ in ids], handover=handover)
    return list(ids)


def claim(store: SqlStore, *ids: str, worker: str = "w1", epoch: int = 1) -> list[Claimed]:
    """Claim jobs, all of which must be claimable; in the order of the ids given."""
    answer = store.claim([ClaimRef(id_, epoch) for id_ in ids], worker=worker)
    assert not answer.refused, answer.refused
    by_id = {job.id: job for job in answer.claimed}
    return [by_id[id_] for id_ in ids]


def start(store: SqlStore, *ids: str, worker: str = "w1", **options: Any) -> list[Claimed]:
    """Insert and claim jobs."""
    insert(store, *ids, **options)
    return claim(store, *ids, worker=worker)


def ended(job: Claimed, outcome: Outcome = Outcome.COMPLETED, **options: Any) -> Finish:
    """The end of a claimed job's attempt."""
    return Finish(job.id, job.epoch, job.token, outcome, job.queue, job.actor, **options)


def finish(store: SqlStore, *finishes: Finish, handover: Handover = BROKER) -> set[str]:
    """Finish; returns the ids whose fence held."""
    return set(store.finish(finishes, handover=handover).applied)


def settle(store: SqlStore, *ids: str, epoch: int = 1) -> None:
    """The broker has confirmed these."""
    store.settle([ClaimRef(id_, epoch) for id_ in ids])


def status(store: SqlStore, id_: str) -> str:
    """Status of a job that must exist."""
    row = store.get(id_)
    assert row is not None
    return row.status.value


def register(store: SqlStore, *ids: str, lease_s: float = 15.0) -> None:
    """Register workers."""
    for id_ in ids:
        info = WorkerInfo(id_, "host", 1, ("mail",), ("send",), 8, "1.0")
        store.register_worker(info, lease_s=lease_s)


def lead(store: SqlStore) -> str:
    """Take leadership for the scheduler's actions."""
    assert store.lead("scheduler", LEADER, lease_s=60)
    return LEADER


def run(store: SqlStore, sql: str, **values: Any) -> list[Any]:
    """Run SQL in the store's database, ``{p}`` being the tables' prefix."""
    with store.database.write() as connection:
        result = connection.execute(sa.text(sql.replace("{p}", store.database.tables.prefix)), values)
        return list(result.all()) if result.returns_rows else []


def rewind(store: SqlStore, table: str, column: str, seconds: float, where: str = "1 = 1", **values: Any) -> None:
    """Let it be ``seconds`` later for one column: move its times into the past."""
    if store.dialect == "postgresql":
        moved = f"{column} - make_interval(secs => {float(seconds)})"
    else:
        moved = f"{column} - {round(seconds * 1000)}"
    run(store, f"UPDATE {{p}}{table} SET {column} = {moved} WHERE {where}", **values)


def outbox(store: SqlStore) -> dict[str, int]:
    """Job ids in the outbox with their epochs."""
    return {row[0]: row[1] for row in run(store, "SELECT job_id, epoch FROM {p}outbox")}


def keys(store: SqlStore) -> dict[str, str]:
    """Taken keys with their owners."""
    return {row[0]: row[1] for row in run(store, "SELECT key, job_id FROM {p}job_keys")}
