"""The hot end of attempts on PostgreSQL: fence, move to the archive, free keys and count, all in one statement."""
# ruff: noqa: S608 - only constants are put into the statements

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.errors import StoreUnavailableError
from playbill.store.archive import HISTORY_LIMIT, cut
from playbill.store.sets import number_array, text_array
from playbill.store.tables import SHARED_COLUMNS
from playbill.store.values import Finish

_TRIES: Final = 10

#: What the ending decides; all other columns are the live row's.
_DECIDED: Final = {
    "status": "i.status",
    "done": "COALESCE(i.done, g.done)",
    "total": "COALESCE(i.total, g.total)",
    "error_type": "i.error_type",
    "error_message": "i.error_message",
    "error_traceback": "i.error_traceback",
    "wait_reason": "NULL",
    "policy_version": "i.policy_version",
    "history": f"""CASE WHEN i.status = 'completed' THEN g.history ELSE
        CASE WHEN jsonb_array_length(g.history) >= {HISTORY_LIMIT} THEN g.history - 0
             ELSE COALESCE(g.history, '[]'::jsonb) END
        || jsonb_strip_nulls(jsonb_build_object(
            'attempt', g.attempt, 'epoch', g.epoch, 'worker', g.worker, 'outcome', i.status,
            'at', to_char(clock.now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            'error', CASE WHEN i.error_type IS NOT NULL THEN jsonb_build_object(
                'type', i.error_type, 'message', i.error_message, 'traceback', i.error_traceback) END))
        END""",
}
_ARCHIVED: Final = ", ".join(f"{_DECIDED.get(name, 'g.' + name)} AS {name}" for name in SHARED_COLUMNS)
_COLUMNS: Final = ", ".join(SHARED_COLUMNS)

#: Locks are taken in the order of the ids. The fence is (id, epoch, token): a waiting job has no token. LATERAL with a
#: lock, then ctid, for the reason that the claim has. A row that changed between the snapshot and its lock (progress of
#: the same attempt) is locked at a ctid that the snapshot does not see: it is answered as not ended, and done again.
#: A row that somebody else holds is skipped: the caller asks again, and no end of another job waits for it.
END: Final = sa.text(
    f"""
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
input AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS text[]), CAST(:epochs AS bigint[]), CAST(:tokens AS bigint[]), CAST(:statuses AS text[]),
        CAST(:results AS text[]), CAST(:error_types AS text[]), CAST(:error_messages AS text[]),
        CAST(:error_tracebacks AS text[]), CAST(:dones AS bigint[]), CAST(:totals AS bigint[]),
        CAST(:run_mss AS float8[]), CAST(:wait_mss AS float8[]), CAST(:policy_versions AS bigint[])
    ) AS i (id, epoch, token, status, result, error_type, error_message, error_traceback, done, total, run_ms, wait_ms,
        policy_version)
),
locked AS MATERIALIZED (
    SELECT i.id, found.ctid FROM (SELECT * FROM input ORDER BY id COLLATE "C") AS i CROSS JOIN LATERAL (
        SELECT j.ctid FROM playbill.jobs j WHERE j.id = i.id AND j.epoch = i.epoch AND j.token = i.token
        FOR UPDATE SKIP LOCKED
    ) AS found
),
gone AS (DELETE FROM playbill.jobs j WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM locked)) RETURNING j.*),
ended AS MATERIALIZED (
    SELECT {_ARCHIVED}, clock.now AS finished_at, i.result, i.run_ms, i.wait_ms
    FROM clock, gone g JOIN input i ON i.id = g.id
),
archived AS (
    INSERT INTO playbill.jobs_archive ({_COLUMNS}, finished_at, result)
    SELECT {_COLUMNS}, finished_at, result FROM ended
),
freed AS (
    DELETE FROM playbill.job_keys k USING ended e
    WHERE e.key IS NOT NULL AND k.tenant = e.tenant AND k.scope = '' AND k.key = e.key AND k.job_id = e.id
),
counted AS (
    INSERT INTO playbill.rollups AS r (
        minute, queue, actor, worker, completed, failed, cancelled, retried, run_ms, run_ms_squared, wait_ms
    )
    SELECT (SELECT CAST(floor(EXTRACT(EPOCH FROM now) / 60) AS bigint) FROM clock), queue, actor,
        COALESCE(worker, ''), count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
        count(*) FILTER (WHERE status = 'cancelled'), 0, sum(run_ms), sum(run_ms * run_ms), sum(wait_ms)
    FROM ended GROUP BY 2, 3, 4 ORDER BY 2, 3, 4
    ON CONFLICT (minute, queue, actor, worker) DO UPDATE SET
        completed = r.completed + excluded.completed, failed = r.failed + excluded.failed,
        cancelled = r.cancelled + excluded.cancelled, run_ms = r.run_ms + excluded.run_ms,
        run_ms_squared = r.run_ms_squared + excluded.run_ms_squared, wait_ms = r.wait_ms + excluded.wait_ms
)
SELECT locked.id, ended.id IS NOT NULL FROM locked LEFT JOIN ended ON ended.id = locked.id
""".replace("::", "\\:\\:")
)


def end_jobs(connection: Connection, finishes: Sequence[tuple[Finish, str]]) -> set[str]:
    """End attempts for good, each with its terminal status; returns the ids whose fence held and whose row was free.

    Raises:
        StoreUnavailableError: Rows went on changing under their locks.
    """
    ended: set[str] = set()
    left = finishes
    for _ in range(_TRIES):
        answers = connection.execute(END, _arrays(left)).all()
        ended |= {id_ for id_, done in answers if done}
        again = {id_ for id_, done in answers if not done}
        if not again:
            return ended
        left = [each for each in left if each[0].id in again]
    raise StoreUnavailableError(f"{len(left)} jobs changed {_TRIES} times while their ends were written; try again")


def _arrays(finishes: Sequence[tuple[Finish, str]]) -> dict[str, Any]:
    items = [item for item, _ in finishes]
    errors = [cut(item.error) if item.error is not None else None for item in items]
    return {
        "ids": text_array([item.id for item in items]),
        "epochs": number_array([item.epoch for item in items]),
        "tokens": number_array([item.token for item in items]),
        "statuses": text_array([status for _, status in finishes]),
        "results": text_array([item.result for item in items]),
        "error_types": text_array([error.type if error is not None else None for error in errors]),
        "error_messages": text_array([error.message if error is not None else None for error in errors]),
        "error_tracebacks": text_array([error.traceback if error is not None else None for error in errors]),
        "dones": number_array([item.done for item in items]),
        "totals": number_array([item.total for item in items]),
        "run_mss": number_array([round(item.run_ms, 3) for item in items]),
        "wait_mss": number_array([round(item.wait_ms, 3) for item in items]),
        "policy_versions": number_array([item.policy_version for item in items]),
    }
