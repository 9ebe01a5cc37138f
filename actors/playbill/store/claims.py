"""Attempts begin: workers take jobs by name (from the broker) or by age (from the store), in one statement.

A claim whose answer was lost with the connection may have been committed under a token that nobody knows. Such tokens
are remembered here, and their jobs are put back before anything else is claimed.
"""
# ruff: noqa: S608 - only constants are put into the statements

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from playbill.errors import StoreError
from playbill.store.clock import SQLITE_NOW, now
from playbill.store.due import OLDEST_POSTGRES, oldest_due
from playbill.store.engine import Database
from playbill.store.requeue import Requeue, requeue
from playbill.store.sets import among, locked_rows, number_array, text_array
from playbill.store.tables import Json, UtcTime
from playbill.store.values import Claimed, ClaimRef, ClaimResult, Handover, Verdict

_RETURNED: Final = (
    "id, epoch, queue, actor, attempt, suspect, cursor, created_at, run_at, started_at, done, total, tenant"
)
_SET: Final = (
    "status = 'processing', token = :token, worker = :worker, attempt = attempt + 1, due_at = NULL, wait_reason = NULL"
)
_WAITING: Final = "status IN ('pending', 'scheduled', 'retrying')"


def _typed(text: str, *more: Any) -> sa.TextualSelect:
    return sa.text(text).columns(
        sa.column("id", sa.Text),
        sa.column("epoch", sa.BigInteger),
        sa.column("queue", sa.Text),
        sa.column("actor", sa.Text),
        sa.column("attempt", sa.Integer),
        sa.column("suspect", sa.Boolean),
        sa.column("cursor", Json),
        sa.column("created_at", UtcTime),
        sa.column("run_at", UtcTime),
        sa.column("started_at", UtcTime),
        sa.column("done", sa.BigInteger),
        sa.column("total", sa.BigInteger),
        sa.column("tenant", sa.Text),
        *more,
    )


_MESSAGE: Final = sa.column("message", sa.LargeBinary)
_POSTGRES_RETURNED: Final = ", ".join(f"j.{name.strip()}" for name in _RETURNED.split(","))

#: LATERAL with a lock, then ctid: the live table is mostly dead rows and the planner takes it for small, so it would
#: rather scan it than look a hundred rows up. A row that changed since the snapshot is left out: asked for again.
CLAIM_POSTGRES: Final = _typed(f"""
WITH wanted AS MATERIALIZED (
    SELECT found.ctid FROM (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:epochs AS bigint[])) AS i (id, epoch)
        ORDER BY i.id COLLATE "C"
    ) AS i CROSS JOIN LATERAL (
        SELECT j.ctid FROM playbill.jobs j
        WHERE j.id = i.id AND j.epoch = i.epoch
        AND j.{_WAITING} AND (j.due_at IS NULL OR j.due_at <= clock_timestamp())
        FOR UPDATE SKIP LOCKED
    ) AS found
)
UPDATE playbill.jobs j SET {_SET}, started_at = clock_timestamp()
WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM wanted)) RETURNING {_POSTGRES_RETURNED}
""")

CLAIM_NEXT_POSTGRES: Final = _typed(
    f"""
WITH oldest AS MATERIALIZED ({OLDEST_POSTGRES})
UPDATE playbill.jobs j SET {_SET}, started_at = clock_timestamp()
FROM oldest WHERE j.id = oldest.id RETURNING {_POSTGRES_RETURNED}, j.message
""",
    _MESSAGE,
)

CLAIM_SQLITE: Final = _typed(f"""
UPDATE playbill_jobs SET {_SET}, started_at = {SQLITE_NOW}
WHERE (id, epoch) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:refs))
AND {_WAITING} AND (due_at IS NULL OR due_at <= {SQLITE_NOW})
RETURNING {_RETURNED}
""")

CLAIM_IDS_SQLITE: Final = _typed(
    f"""
UPDATE playbill_jobs SET {_SET}, started_at = {SQLITE_NOW}
WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING {_RETURNED}, message
""",
    _MESSAGE,
)


@dataclass(frozen=True, slots=True)
class _LostClaim:
    """A claim of which nobody knows whether it was committed."""

    token: int
    ids: tuple[str, ...] | None
    handover: Handover


class Claims:
    """Claims of one process."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._lost: list[_LostClaim] = []
        self._lost_lock = threading.Lock()

    def claim(self, refs: Sequence[ClaimRef], *, worker: str) -> ClaimResult:
        """See the port."""
        wanted = {ref.id: ref.epoch for ref in refs}
        if not wanted:
            return ClaimResult((), {})
        self.settle_lost()
        token = secrets.randbits(63)
        try:
            rows = self._claim_rows(wanted, token, worker)
        except StoreError:
            self._note_lost(_LostClaim(token, tuple(wanted), Handover.RELAY))
            raise
        claimed = tuple(_claimed(row, token) for row in rows)
        taken = {job.id for job in claimed}
        refused = {id_: epoch for id_, epoch in wanted.items() if id_ not in taken}
        if not refused:
            return ClaimResult(claimed, {})
        try:
            return ClaimResult(claimed, self._verdicts(refused))
        except StoreError:
            # What was claimed is told to nobody.
            self._note_lost(_LostClaim(token, tuple(taken), Handover.RELAY))
            raise

    def claim_next(self, queues: Sequence[str], limit: int, *, worker: str) -> tuple[Claimed, ...]:
        """See the port."""
        if not queues or limit <= 0:
            return ()
        self.settle_lost()
        token = secrets.randbits(63)
        try:
            rows = self._next_rows(sorted(set(queues)), limit, token, worker)
        except StoreError:
            self._note_lost(_LostClaim(token, None, Handover.STORE))
            raise
        claimed = [_claimed(row, token, bytes(row.message)) for row in rows]
        return tuple(sorted(claimed, key=lambda job: (job.run_at, job.id)))

    def settle_lost(self) -> None:
        """Put back what claims took whose answer never came. Called before each claim and heartbeat."""
        if not self._lost:
            return
        with self._lost_lock:
            lost = tuple(self._lost)
        for claim in lost:
            self._put_back(claim)
        with self._lost_lock:
            self._lost = [claim for claim in self._lost if claim not in lost]

    def _note_lost(self, claim: _LostClaim) -> None:
        with self._lost_lock:
            self._lost.append(claim)

    def _put_back(self, claim: _LostClaim) -> None:
        jobs = self._db.tables.jobs
        query = sa.select(jobs).where(jobs.c.token == claim.token)
        if claim.ids is not None:
            query = query.where(among(self._db, jobs.c.id, claim.ids))
        with self._db.write() as connection:
            rows = connection.execute(locked_rows(query, jobs)).all()
            items = [Requeue(row, attempt=row.attempt - 1, suspect=row.suspect) for row in rows]
            requeue(self._db, connection, items, handover=claim.handover, relay_after_s=0.0)

    def _claim_rows(self, wanted: Mapping[str, int], token: int, worker: str) -> Sequence[Any]:
        values: dict[str, Any] = {"token": token, "worker": worker}
        with self._db.single() as connection:
            if self._db.on_postgres:
                values |= {"ids": text_array(wanted), "epochs": number_array(wanted.values())}
                return connection.execute(CLAIM_POSTGRES, values).all()
            return connection.execute(CLAIM_SQLITE, {**values, "refs": json.dumps(list(wanted.items()))}).all()

    def _next_rows(self, queues: list[str], limit: int, token: int, worker: str) -> Sequence[Any]:
        values: dict[str, Any] = {"token": token, "worker": worker}
        if self._db.on_postgres:
            with self._db.single() as connection:
                return connection.execute(CLAIM_NEXT_POSTGRES, {**values, "queues": queues, "count": limit}).all()
        with self._db.read() as connection:  # idle workers ask all the time: only readers, until there is something
            if not oldest_due(self._db, connection, queues, 1):
                return ()
        with self._db.write() as connection:
            ids = oldest_due(self._db, connection, queues, limit)
            return connection.execute(CLAIM_IDS_SQLITE, {**values, "ids": json.dumps(ids)}).all() if ids else ()

    def _verdicts(self, refused: Mapping[str, int]) -> dict[str, Verdict]:
        jobs, archive = self._db.tables.jobs, self._db.tables.archive
        ids = list(refused)
        live = sa.select(
            jobs.c.id, jobs.c.epoch, jobs.c.status, (jobs.c.due_at > now()).label("later"), sa.true().label("live")
        ).where(among(self._db, jobs.c.id, ids))
        ended = sa.select(archive.c.id, archive.c.epoch, archive.c.status, sa.null(), sa.false()).where(
            among(self._db, archive.c.id, ids)
        )
        with self._db.read() as connection:
            rows = connection.execute(sa.union_all(live, ended)).all()
        verdicts = dict.fromkeys(refused, Verdict.MISSING)
        for row in sorted(rows, key=lambda row: bool(row.live)):  # a redriven job is live whatever the archive says
            verdicts[row.id] = _verdict(row, refused[row.id])
        return verdicts


def _verdict(row: Any, epoch: int) -> Verdict:
    if not row.live:
        return Verdict.TERMINAL
    if row.epoch != epoch or row.status == "processing":
        return Verdict.STALE
    return Verdict.NOT_DUE if row.later else Verdict.LOCKED


def _claimed(row: Any, token: int, message: bytes | None = None) -> Claimed:
    return Claimed(
        id=row.id,
        epoch=row.epoch,
        token=token,
        queue=row.queue,
        actor=row.actor,
        attempt=row.attempt,
        suspect=bool(row.suspect),
        cursor=row.cursor,
        created_at=row.created_at,
        run_at=row.run_at,
        started_at=row.started_at,
        done=row.done,
        total=row.total,
        tenant=row.tenant,
        message=message,
    )
