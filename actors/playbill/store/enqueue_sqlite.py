"""Inserts on SQLite: the same contract as ``enqueue_postgres``, in several statements of one write transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from playbill.store.clock import SQLITE_NOW
from playbill.store.sessions import Executor
from playbill.store.tables import to_ms
from playbill.store.values import ClaimRef, Handover, NewJob

_NOW: Final = sa.text(f"SELECT {SQLITE_NOW}")
_INSERT: Final = (
    "INSERT INTO playbill_jobs (id, queue, actor, message, priority, tenant, key, tags, status, epoch, attempt,"
    " created_at, run_at, due_at, done, crashes, policy_version, suspect, cancelling) VALUES (:id, :queue, :actor,"
    " :message, :priority, :tenant, :key, :tags, :status, 1, 0, :now, :run_at, :due_at, 0, 0, 0, 0, 0)"
)
INSERT: Final = sa.text(_INSERT)
ADOPT: Final = sa.text(f"{_INSERT} ON CONFLICT (id) DO NOTHING")
BOX: Final = sa.text("INSERT INTO playbill_outbox (job_id, epoch, queue, publish_at) VALUES (:id, 1, :queue, :at)")
KNOWN: Final = sa.text(
    "SELECT id FROM playbill_jobs WHERE id IN (SELECT value FROM json_each(:ids))"
    " UNION ALL SELECT id FROM playbill_jobs_archive WHERE id IN (SELECT value FROM json_each(:ids))"
)
TAKE_KEY: Final = sa.text(
    "INSERT INTO playbill_job_keys (tenant, scope, key, job_id) VALUES (:tenant, '', :key, :id) ON CONFLICT DO NOTHING"
)
KEY_OWNER: Final = sa.text(
    "SELECT k.job_id, COALESCE(j.epoch, 1) FROM playbill_job_keys k LEFT JOIN playbill_jobs j ON j.id = k.job_id"
    " WHERE k.tenant = :tenant AND k.scope = '' AND k.key = :key"
)
SETTLE: Final = sa.text("DELETE FROM playbill_outbox WHERE job_id = :id AND epoch <= :epoch")


def insert_jobs(executor: Executor, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float) -> set[str]:
    """Insert jobs whose keys are taken; returns the ids of those that are due and not in the store's hands."""
    now: int = executor.rows(_NOW, {})[0][0]
    rows = [_row(job, now, handover is Handover.STORE) for job in jobs]
    executor.many(INSERT, rows)
    due = [row for row in rows if row["due_at"] is None]
    publish_at = now + (round(relay_after_s * 1000) if handover is Handover.BROKER else 0)
    executor.many(BOX, [{"id": row["id"], "queue": row["queue"], "at": publish_at} for row in due])
    return {row["id"] for row in due}


def adopt_jobs(executor: Executor, jobs: Sequence[NewJob]) -> None:
    """Insert jobs whose messages are in the broker; those that are not due wait in the store."""
    now: int = executor.rows(_NOW, {})[0][0]
    executor.many(ADOPT, [{**_row(job, now, False), "key": None} for job in jobs])


def known_ids(executor: Executor, ids: Sequence[str]) -> set[str]:
    """Which of the ids exist, live or archived."""
    return {row[0] for row in executor.rows(KNOWN, {"ids": json.dumps(list(ids))})}


def take_keys(executor: Executor, jobs: Sequence[NewJob], held: dict[str, tuple[str, int]]) -> list[NewJob]:
    """Take keys; owners of taken ones go into ``held``. Nothing is left to try again: writers are alone here."""
    for job in jobs:
        values = {"tenant": job.tenant, "key": job.key, "id": job.id}
        executor.rows(TAKE_KEY, values)
        owner, epoch = executor.rows(KEY_OWNER, values)[0]
        if owner != job.id:
            held[job.id] = (owner, epoch)
    return []


def settle(executor: Executor, refs: Sequence[ClaimRef]) -> None:
    """Remove outbox rows."""
    executor.many(SETTLE, [{"id": ref.id, "epoch": ref.epoch} for ref in refs])


def _row(job: NewJob, now: int, in_store: bool) -> dict[str, Any]:
    due = to_ms(job.run_at) if job.run_at is not None else now + round(job.delay_s * 1000)
    waits = due > now
    return {
        "id": job.id,
        "queue": job.queue,
        "actor": job.actor,
        "message": job.message,
        "priority": job.priority,
        "tenant": job.tenant,
        "key": job.key,
        "tags": json.dumps(job.tags) if job.tags else None,
        "status": "scheduled" if waits else "pending",
        "now": now,
        "run_at": max(due, now),
        "due_at": due if waits else (now if in_store else None),
    }
