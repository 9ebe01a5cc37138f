"""Inserts on PostgreSQL: arrays in one data-modifying statement, or COPY.

These statements also run on sessions of callers, on whatever driver they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.store.sessions import Executor
from playbill.store.sets import bytes_array, number_array, text_array, with_array_literals
from playbill.store.values import ClaimRef, Handover, NewJob

#: Job rows and, for those that are due, outbox rows. ``clock`` is read once, so a batch has one moment.
INSERT: Final = with_array_literals("""
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
input AS (
    SELECT i.*, clock.now,
        COALESCE(i.run_at, clock.now + make_interval(secs => i.delay_s)) AS due
    FROM clock, unnest(
        CAST(:ids AS text[]), CAST(:queues AS text[]), CAST(:actors AS text[]), CAST(:messages AS bytea[]),
        CAST(:priorities AS smallint[]), CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:tags AS jsonb[]),
        CAST(:delays AS float8[]), CAST(:run_ats AS timestamptz[])
    ) AS i (id, queue, actor, message, priority, tenant, key, tags, delay_s, run_at)
),
made AS (
    INSERT INTO playbill.jobs (
        id, queue, actor, message, priority, tenant, key, tags, status, epoch, attempt, created_at, run_at, due_at,
        done, crashes, policy_version, suspect, cancelling
    )
    SELECT id, queue, actor, message, priority, tenant, key, tags,
        CASE WHEN due > now THEN 'scheduled' ELSE 'pending' END, 1, 0, now, GREATEST(due, now),
        CASE WHEN due > now THEN due WHEN :in_store THEN now END,
        0, 0, 0, false, false
    FROM input
    RETURNING id, queue, due_at
),
boxed AS (
    INSERT INTO playbill.outbox (job_id, epoch, queue, publish_at)
    SELECT made.id, 1, made.queue, clock.now + make_interval(secs => CAST(:relay_after_s AS float8))
    FROM made, clock WHERE made.due_at IS NULL
)
SELECT id FROM made WHERE due_at IS NULL
""")

#: The one job of a plain ``send``, due now and published by its caller: without INSERT's arrays and nodes it takes a
#: fifth less time, commit included. It is a transaction of its own, hence the statement's moment is the clock's.
INSERT_SENT: Final = """
WITH made AS (
    INSERT INTO playbill.jobs (
        id, queue, actor, message, priority, tenant, tags, status, epoch, attempt, created_at, run_at,
        done, crashes, policy_version, suspect, cancelling
    )
    VALUES (
        %(id)s, %(queue)s, %(actor)s, %(message)s, %(priority)s, %(tenant)s, CAST(%(tags)s AS jsonb),
        'pending', 1, 0, statement_timestamp(), statement_timestamp(), 0, 0, 0, false, false
    )
)
INSERT INTO playbill.outbox (job_id, epoch, queue, publish_at)
VALUES (%(id)s, 1, %(queue)s, statement_timestamp() + make_interval(secs => %(relay_after_s)s))
"""

#: A plain producer's message: the broker has it already, unless it is not due yet. Whoever inserts first wins.
ADOPT: Final = with_array_literals("""
INSERT INTO playbill.jobs (
    id, queue, actor, message, priority, tenant, key, tags, status, epoch, attempt, created_at, run_at, due_at,
    done, crashes, policy_version, suspect, cancelling
)
SELECT i.id, i.queue, i.actor, i.message, i.priority, i.tenant, NULL, i.tags,
    CASE WHEN i.run_at > clock.now THEN 'scheduled' ELSE 'pending' END, 1, 0,
    clock.now, GREATEST(i.run_at, clock.now), CASE WHEN i.run_at > clock.now THEN i.run_at END,
    0, 0, 0, false, false
FROM (SELECT clock_timestamp() AS now) AS clock, unnest(
    CAST(:ids AS text[]), CAST(:queues AS text[]), CAST(:actors AS text[]), CAST(:messages AS bytea[]),
    CAST(:priorities AS smallint[]), CAST(:tenants AS text[]), CAST(:tags AS jsonb[]), CAST(:run_ats AS timestamptz[])
) AS i (id, queue, actor, message, priority, tenant, tags, run_at)
ORDER BY i.id
ON CONFLICT (id) DO NOTHING
""")

KNOWN: Final = with_array_literals("""
SELECT id FROM playbill.jobs WHERE id = ANY(CAST(:ids AS text[]))
UNION ALL SELECT id FROM playbill.jobs_archive WHERE id = ANY(CAST(:ids AS text[]))
""")

TAKE_KEYS: Final = with_array_literals("""
INSERT INTO playbill.job_keys (tenant, scope, key, job_id)
SELECT tenant, '', key, id
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:ids AS text[])) AS i (tenant, key, id)
ORDER BY tenant COLLATE "C", key COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING job_id
""")

KEY_OWNERS: Final = with_array_literals("""
SELECT i.id, k.job_id, COALESCE(j.epoch, 1)
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:ids AS text[])) AS i (tenant, key, id)
JOIN playbill.job_keys k ON k.tenant = i.tenant AND k.scope = '' AND k.key = i.key
LEFT JOIN playbill.jobs j ON j.id = k.job_id
""")

#: Never waits for a lock, so it cannot deadlock with those who hand the same jobs over again. By ctid: this table is
#: emptied all the time, so the planner believes it empty and would join it with itself row by row.
SETTLE: Final = with_array_literals("""
DELETE FROM playbill.outbox WHERE ctid = ANY(ARRAY(
    SELECT o.ctid FROM unnest(CAST(:ids AS text[]), CAST(:epochs AS bigint[])) AS i (id, epoch) CROSS JOIN LATERAL (
        SELECT b.ctid FROM playbill.outbox b WHERE b.job_id = i.id AND b.epoch <= i.epoch FOR UPDATE SKIP LOCKED
    ) AS o
))
""")

_COPY_JOBS: Final = (
    "COPY playbill.jobs (id, queue, actor, message, priority, tenant, key, tags, status, epoch, attempt, created_at,"
    " run_at, due_at, done, crashes, policy_version, suspect, cancelling) FROM STDIN"
)
_COPY_OUTBOX: Final = "COPY playbill.outbox (job_id, epoch, queue, publish_at) FROM STDIN"


def insert_jobs(executor: Executor, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float) -> set[str]:
    """Insert jobs whose keys are taken; returns the ids of those that are due and not in the store's hands."""
    values = {
        **_arrays(jobs),
        "keys": text_array([job.key for job in jobs]),
        "delays": number_array([job.delay_s for job in jobs]),
        "run_ats": _run_ats(jobs),
        "in_store": handover is Handover.STORE,
        "relay_after_s": _publish_after(handover, relay_after_s),
    }
    return {row[0] for row in executor.rows(INSERT, values)}


def insert_sent(connection: Any, job: NewJob, relay_after_s: float) -> None:
    """Insert one job that is due and has no key, on a psycopg connection in autocommit; its caller publishes it."""
    values = {
        "id": job.id,
        "queue": job.queue,
        "actor": job.actor,
        "message": job.message,
        "priority": job.priority,
        "tenant": job.tenant,
        "tags": _tags(job),
        "relay_after_s": relay_after_s,
    }
    connection.execute(INSERT_SENT, values, prepare=True)


def adopt_jobs(executor: Executor, jobs: Sequence[NewJob]) -> None:
    """Insert jobs whose messages are in the broker."""
    executor.rows(ADOPT, {**_arrays(jobs), "run_ats": _run_ats(jobs)})


def known_ids(executor: Executor, ids: Sequence[str]) -> set[str]:
    """Which of the ids exist, live or archived."""
    return {row[0] for row in executor.rows(KNOWN, {"ids": text_array(ids)})}


def take_keys(executor: Executor, jobs: Sequence[NewJob], held: dict[str, tuple[str, int]]) -> list[NewJob]:
    """Take keys; owners of taken ones go into ``held``; returns the jobs to try again."""
    values = {
        "tenants": text_array([job.tenant for job in jobs]),
        "keys": text_array([job.key for job in jobs]),
        "ids": text_array([job.id for job in jobs]),
    }
    taken = {row[0] for row in executor.rows(TAKE_KEYS, values)}
    if len(taken) == len(jobs):
        return []
    owners = {row[0]: (row[1], row[2]) for row in executor.rows(KEY_OWNERS, values)}
    held.update({job.id: owners[job.id] for job in jobs if job.id not in taken and job.id in owners})
    return [job for job in jobs if job.id not in taken and job.id not in owners]


def settle(executor: Executor, refs: Sequence[ClaimRef]) -> None:
    """Remove outbox rows."""
    values = {"ids": text_array([ref.id for ref in refs]), "epochs": number_array([ref.epoch for ref in refs])}
    executor.rows(SETTLE, values)


def copy_jobs(connection: Connection, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float) -> set[str]:
    """Insert many jobs by COPY, in the transaction of ``connection``; answers as :func:`insert_jobs`."""
    now: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    raw = connection.connection.driver_connection
    assert raw is not None
    publish_at = now + timedelta(seconds=_publish_after(handover, relay_after_s))
    due: set[str] = set()
    rows = (_copy_row(job, now, handover is Handover.STORE, due) for job in jobs)
    with raw.cursor() as cursor:
        _copy(cursor, _COPY_JOBS, rows)
        _copy(cursor, _COPY_OUTBOX, ((job.id, 1, job.queue, publish_at) for job in jobs if job.id in due))
    return due


def _copy(cursor: Any, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _copy_row(job: NewJob, now: datetime, in_store: bool, due: set[str]) -> Sequence[Any]:
    due_at: datetime | None = job.run_at or now + timedelta(seconds=job.delay_s)
    assert due_at is not None
    run_at = max(due_at, now)
    status = "scheduled" if due_at > now else "pending"
    if status == "pending":
        due_at = now if in_store else None
    if due_at is None:
        due.add(job.id)
    head = (job.id, job.queue, job.actor, job.message, job.priority, job.tenant, job.key, _tags(job))
    return (*head, status, 1, 0, now, run_at, due_at, 0, 0, 0, False, False)


def _arrays(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {
        "ids": text_array([job.id for job in jobs]),
        "queues": text_array([job.queue for job in jobs]),
        "actors": text_array([job.actor for job in jobs]),
        "messages": bytes_array([job.message for job in jobs]),
        "priorities": number_array([job.priority for job in jobs]),
        "tenants": text_array([job.tenant for job in jobs]),
        "tags": text_array([_tags(job) for job in jobs]),
    }


def _run_ats(jobs: Sequence[NewJob]) -> Any:
    return text_array([job.run_at.isoformat() if job.run_at else None for job in jobs])


def _tags(job: NewJob) -> str | None:
    return json.dumps(job.tags) if job.tags else None


def _publish_after(handover: Handover, relay_after_s: float) -> float:
    """A job that its caller publishes has time until the relay does; one that nobody publishes has none."""
    return relay_after_s if handover is Handover.BROKER else 0.0
