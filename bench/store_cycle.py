"""What the store costs a job on PostgreSQL.

Prints two tables: the whole cycle (insert, claim, finish) in batches, with finished rows moved to an archive against
the alternative of one table; and claim + finish on an empty store against one with a million ended and a hundred
thousand waiting jobs.

    python bench/store_cycle.py [postgresql://user:password@host/postgres] [--quick]

Databases ``playbill_bench_*`` are made on that server and dropped again. Times are medians of alternating rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

import servers
from playbill.settings import Settings
from playbill.store.migrate import migrate
from playbill.store.sql import SqlStore, open_sql_store
from playbill.store.values import ClaimRef, Finish, Handover, NewJob, Outcome

MESSAGE = b'{"queue_name":"bench","actor_name":"noop","args":[1],"kwargs":{},"options":{},"message_id":"' + b"x" * 160
RESULT = '{"sent": 1}'


class Archived:
    """The store as it is."""

    name = "live table + archive"

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.made = 0

    def insert(self, count: int) -> list[str]:
        ids = [f"{self.made + number:032d}" for number in range(count)]
        self.made += count
        self.store.insert([NewJob(id_, "bench", "noop", MESSAGE) for id_ in ids], handover=Handover.BROKER)
        return ids

    def settle(self, ids: list[str]) -> None:
        self.store.settle([ClaimRef(id_, 1) for id_ in ids])

    def claim(self, ids: list[str]) -> Any:
        return self.store.claim([ClaimRef(id_, 1) for id_ in ids], worker="w1").claimed

    def finish(self, jobs: Any) -> None:
        done = [
            Finish(j.id, j.epoch, j.token, Outcome.COMPLETED, j.queue, j.actor, result=RESULT, run_ms=1.0, wait_ms=1.0)
            for j in jobs
        ]
        assert len(self.store.finish(done, handover=Handover.BROKER).applied) == len(done)


class OneTable(Archived):
    """The alternative: ended jobs stay where they are, under a status, with an index to find and purge them."""

    name = "one table"

    FINISH = sa.text("""
    WITH input AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:epochs AS bigint[]), CAST(:tokens AS bigint[])) AS i
            (id, epoch, token)
    ), locked AS MATERIALIZED (
        SELECT j.id FROM input i JOIN playbill.jobs j ON j.id = i.id AND j.epoch = i.epoch AND j.token = i.token
        ORDER BY j.id FOR UPDATE OF j
    ), ended AS (
        UPDATE playbill.jobs j SET status = 'completed', finished_at = clock_timestamp(), result = :result
        FROM locked WHERE j.id = locked.id RETURNING j.id, j.queue, j.actor, j.worker
    ), counted AS (
        INSERT INTO playbill.rollups AS r (
            minute, queue, actor, worker, completed, failed, cancelled, retried, run_ms, run_ms_squared, wait_ms
        ) SELECT CAST(floor(EXTRACT(EPOCH FROM clock_timestamp()) / 60) AS bigint), queue, actor, worker, count(*),
            0, 0, 0, sum(1.0), sum(1.0), sum(1.0) FROM ended GROUP BY 1, 2, 3, 4
        ON CONFLICT (minute, queue, actor, worker) DO UPDATE SET completed = r.completed + excluded.completed
    ) SELECT id FROM ended
    """)

    def __init__(self, store: SqlStore) -> None:
        super().__init__(store)
        with store.database.write() as connection:
            for statement in (
                "ALTER TABLE playbill.jobs ADD finished_at timestamptz, ADD result text",
                "CREATE INDEX ON playbill.jobs (finished_at) WHERE finished_at IS NOT NULL",
            ):
                connection.execute(sa.text(statement))

    def finish(self, jobs: Any) -> None:
        values = {
            "ids": [job.id for job in jobs],
            "epochs": [job.epoch for job in jobs],
            "tokens": [job.token for job in jobs],
            "result": RESULT,
        }
        with self.store.database.single() as connection:
            assert len(connection.execute(self.FINISH, values).all()) == len(jobs)


@contextmanager
def fresh(url: str, name: str) -> Iterator[SqlStore]:
    base = make_url(url).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(base, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    database = f"playbill_bench_{name}"
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {database}"))
    target = base.set(database=database).render_as_string(hide_password=False)
    migrate(Settings(store_url=target))
    store = open_sql_store(Settings(store_url=target))
    try:
        yield store
    finally:
        store.close()
        with admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))


def wal_bytes(store: SqlStore) -> int:
    with store.database.read() as connection:
        return int(
            connection.execute(sa.text("SELECT pg_current_wal_insert_lsn() - CAST('0/0' AS pg_lsn)")).scalar_one()
        )


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = action()
    return time.perf_counter() - started, answer


def cycle(shape: Archived, batch: int, jobs: int) -> dict[str, float]:
    """Microseconds a job of each step, and bytes of WAL."""
    spent = dict.fromkeys(("insert", "settle", "claim", "finish"), 0.0)
    wal = wal_bytes(shape.store)
    for _ in range(jobs // batch):
        took, ids = timed(lambda: shape.insert(batch))
        spent["insert"] += took
        spent["settle"] += timed(lambda ids=ids: shape.settle(ids))[0]
        took, claimed = timed(lambda ids=ids: shape.claim(ids))
        spent["claim"] += took
        spent["finish"] += timed(lambda claimed=claimed: shape.finish(claimed))[0]
    total = jobs // batch * batch
    row = {name: seconds / total * 1e6 for name, seconds in spent.items()}
    return {**row, "cycle": row["insert"] + row["claim"] + row["finish"], "wal": (wal_bytes(shape.store) - wal) / total}


def compare_shapes(url: str, rounds: int, jobs: int) -> None:
    print(f"\nMicroseconds a job, medians of {rounds} rounds of {jobs} jobs (cycle = insert + claim + finish)")
    print(f"{'shape':24}{'batch':>6}{'insert':>8}{'settle':>8}{'claim':>8}{'finish':>8}{'cycle':>8}{'WAL B':>8}")
    with fresh(url, "archived") as one, fresh(url, "single") as two:
        shapes = [Archived(one), OneTable(two)]
        for shape in shapes:
            cycle(shape, 100, 2000)
        for batch in (10, 100, 500):
            found: dict[str, list[dict[str, float]]] = {shape.name: [] for shape in shapes}
            for _ in range(rounds):
                for shape in shapes:
                    found[shape.name].append(cycle(shape, batch, jobs))
            for shape in shapes:
                row = {key: statistics.median(each[key] for each in found[shape.name]) for key in found[shape.name][0]}
                figures = "".join(f"{row[key]:8.1f}" for key in ("insert", "settle", "claim", "finish", "cycle"))
                print(f"{shape.name:24}{batch:6}{figures}{row['wal']:8.0f}")


def fill(store: SqlStore, archived: int, waiting: int) -> None:
    columns = (
        "id, queue, actor, message, priority, tenant, status, epoch, attempt, created_at, run_at, done, crashes,"
        " policy_version"
    )
    values = "'bench', 'noop', :message, 5, '', :status, 1, 1, now() - make_interval(secs => n % 80000), now(), 0, 0, 0"
    with store.database.write() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO playbill.jobs_archive ({columns}, finished_at, token, result)"
                f" SELECT md5('a' || n), {values}, now() - make_interval(secs => n % 80000), n, '1'"
                " FROM generate_series(1, CAST(:count AS int)) AS n"
            ),
            {"message": MESSAGE, "status": "completed", "count": archived},
        )
        connection.execute(
            sa.text(
                f"INSERT INTO playbill.jobs ({columns}, due_at, suspect, cancelling)"
                f" SELECT md5('w' || n), {values}, CASE WHEN n % 2 = 0 THEN now() + make_interval(days => 1) END,"
                " false, false FROM generate_series(1, CAST(:count AS int)) AS n"
            ),
            {"message": MESSAGE, "status": "pending", "count": waiting},
        )
    with store.database.single() as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
        connection.execute(sa.text("CHECKPOINT"))


def compare_sizes(url: str, rounds: int, jobs: int, archived: int, waiting: int) -> None:
    print(f"\nClaim + finish, batches of 100: empty against {archived:,} ended and {waiting:,} waiting jobs")
    with fresh(url, "empty") as small, fresh(url, "full") as large:
        fill(large, archived, waiting)
        shapes = {"empty": Archived(small), "full": Archived(large)}
        found: dict[str, list[float]] = {name: [] for name in shapes}
        for shape in shapes.values():
            cycle(shape, 100, 2000)
        for _ in range(rounds):
            for name, shape in shapes.items():
                row = cycle(shape, 100, jobs)
                found[name].append(row["claim"] + row["finish"])
        medians = {name: statistics.median(times) for name, times in found.items()}
        for name, median in medians.items():
            print(f"{name:24}{median:8.1f} us")
        print(f"{'ratio':24}{medians['full'] / medians['empty']:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", help="a PostgreSQL server; by default that of `make services`")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and rows")
    options = parser.parse_args()
    url = options.url or servers.url_of("postgres")
    rounds, jobs = (3, 2000) if options.quick else (7, 10_000)
    compare_shapes(url, rounds, jobs)
    sizes = (100_000, 10_000) if options.quick else (1_000_000, 100_000)
    compare_sizes(url, rounds, jobs, *sizes)


if __name__ == "__main__":
    main()
