"""What only PostgreSQL has: plans, HOT updates, partitions, PgBouncer, connections that break or hang."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from playbill.errors import StoreUnavailableError
from playbill.settings import Settings
from playbill.store import claims, due, engine, finish_postgres, hung
from playbill.store.clock import POSTGRES_NOW
from playbill.store.partitions import partitions
from playbill.store.sql import SqlStore, open_sql_store
from playbill.store.values import ClaimRef, ErrorRecord, Outcome
from tests.conformance.conftest import Server, psycopg_url
from tests.conformance.store_kit import (
    BROKER,
    IN_STORE,
    RELAY,
    claim,
    ended,
    finish,
    insert,
    lead,
    new,
    outbox,
    rewind,
    run,
    settle,
    start,
    status,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


# -- plans -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_store(postgres_store: SqlStore) -> SqlStore:
    """20,000 jobs with the broker, 20,000 in the store, analysed."""
    run(
        postgres_store,
        """INSERT INTO {p}jobs (id, queue, actor, message, priority, tenant, status, epoch, attempt, created_at, run_at,
            due_at, done, crashes, policy_version, suspect, cancelling)
        SELECT 'id' || lpad(n::text, 8, '0'), 'queue' || n % 5, 'send', 'm', 5, '', 'pending', 1, 0, now(), now(),
            CASE WHEN n % 2 = 0 THEN now() + make_interval(secs => n - 20000) END, 0, 0, 0, false, false
        FROM generate_series(1, 40000) AS n""".replace("::", "\\:\\:"),
    )
    with postgres_store.database.single() as connection:
        connection.execute(sa.text("VACUUM ANALYZE playbill.jobs"))
    return postgres_store


def explain(store: SqlStore, statement: Any, **values: Any) -> str:
    compiled = statement.compile(dialect=store.database.engine.dialect)
    with store.database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        rows = raw.execute(f"EXPLAIN (FORMAT JSON) {compiled}", {**compiled.params, **values}).fetchall()
        raw.rollback()
    return json.dumps(rows[0][0])


def scanned(plan: str) -> set[str]:
    """Tables that the plan reads from end to end."""

    def walk(node: dict[str, Any]) -> Iterator[str]:
        if node["Node Type"] == "Seq Scan":
            yield node["Relation Name"]
        for child in node.get("Plans", ()):
            yield from walk(child)

    return set(walk(json.loads(plan)[0]["Plan"]))


def test_a_claim_by_name_uses_the_primary_key(full_store: SqlStore) -> None:
    ids = [f"id{number:08}" for number in range(1, 200, 2)]
    plan = explain(full_store, claims.CLAIM_POSTGRES, ids=ids, epochs=[1] * 100, token=1, worker="w")
    assert "jobs_pkey" in plan
    assert "jobs" not in scanned(plan)


def test_a_live_table_of_dead_rows_is_not_scanned(postgres_store: SqlStore) -> None:
    """What it mostly is: many pages, few rows, statistics that say so."""
    run(postgres_store, "TRUNCATE {p}jobs")  # in new pages, so that the rows that stay are on the last
    insert(postgres_store, *(f"id{number:05}" for number in range(3000)))
    run(postgres_store, "DELETE FROM {p}jobs WHERE id < 'id02990'")
    with postgres_store.database.single() as connection:
        connection.execute(sa.text("VACUUM (ANALYZE, TRUNCATE false) playbill.jobs"))
    ids = [f"id{number:05}" for number in range(2900, 3000)]
    plan = explain(postgres_store, claims.CLAIM_POSTGRES, ids=ids, epochs=[1] * 100, token=1, worker="w")
    assert "jobs" not in scanned(plan)
    values: dict[str, Any] = {name: [None] * 100 for name in finish_postgres.END.compile().params}
    values |= {"ids": ids, "epochs": [1] * 100, "tokens": [1] * 100, "statuses": ["completed"] * 100}
    assert "jobs" not in scanned(explain(postgres_store, finish_postgres.END, **values))


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.RETRY])
def test_a_finish_waits_for_nobody_and_is_asked_again(postgres_store: SqlStore, outcome: Outcome) -> None:
    # Given: a transaction that an actor has left open
    (job, other) = start(postgres_store, "a", "b")
    finishes = [ended(job, outcome), ended(other)]
    with postgres_store.database.write() as connection:
        connection.execute(sa.text("UPDATE playbill.jobs SET done = 1 WHERE id = 'a'"))
        # When
        answer = postgres_store.finish(finishes, handover=IN_STORE)
        # Then: the other job ends, and this one's fence stands
        assert (answer.applied, answer.busy) == ({"b"}, {"a"})
    assert postgres_store.finish(finishes, handover=IN_STORE).applied == {"a", "b"}
    row = postgres_store.get("a")
    assert row is not None
    assert row.done == 1


def test_a_cancel_of_many_waits_only_for_the_one_that_is_held(postgres_store: SqlStore) -> None:
    # Given: a running job whose checkpoint is not committed yet
    start(postgres_store, "held")
    insert(postgres_store, "free")
    answers: dict[str, Any] = {}
    caller = sa.create_engine(postgres_store.database.url, poolclass=sa.NullPool)
    with caller.begin() as connection:
        connection.execute(sa.text("UPDATE playbill.jobs SET done = 1 WHERE id = 'held'"))
        # When
        canceller = threading.Thread(target=lambda: answers.update(postgres_store.cancel(["held", "free"])))
        canceller.start()
        # Then: the other one ends meanwhile
        eventually(lambda: status(postgres_store, "free") == "cancelled", deadline_s=10)
    canceller.join(30)
    assert answers == {"held": "cancelling", "free": "cancelled"}


def test_a_claim_from_the_store_uses_the_due_index(full_store: SqlStore) -> None:
    plan = explain(full_store, claims.CLAIM_NEXT_POSTGRES, queues=["queue1", "queue2"], count=50, token=1, worker="w")
    assert "jobs_queue_due" in plan
    assert "jobs" not in scanned(plan)
    assert '"Node Type": "Sort"' in plan  # of the few that were found, never of all that are due


def test_queues_with_due_jobs_are_found_by_index(full_store: SqlStore) -> None:
    query = sa.text(full_store.database.tables.sql(due._QUEUES).replace("{now}", POSTGRES_NOW))
    plan = explain(full_store, query)
    assert "jobs_queue_due" in plan
    assert "jobs" not in scanned(plan)


def test_a_finish_uses_the_primary_key(full_store: SqlStore) -> None:
    ids = [f"id{number:08}" for number in range(100)]
    values: dict[str, Any] = {name: [None] * 100 for name in finish_postgres.END.compile().params}
    values |= {"ids": ids, "epochs": [1] * 100, "tokens": [1] * 100, "statuses": ["completed"] * 100}
    plan = explain(full_store, finish_postgres.END, **values)
    assert plan.count('"Index Name": "jobs_pkey"') == 1  # to lock; deleted by ctid
    assert plan.count('"Node Type": "Tid Scan"') == 1


def test_the_newest_jobs_are_found_by_index(full_store: SqlStore) -> None:
    from playbill.store.values import JobFilter

    query = full_store._reads._live(JobFilter()).order_by(sa.desc("created_at"), sa.desc("id")).limit(50)
    assert "jobs_created" in explain(full_store, query)


def test_claims_are_hot_updates(postgres_store: SqlStore) -> None:
    """No index entry is written for them: no indexed column changes and pages have room."""
    run(postgres_store, "TRUNCATE {p}jobs")
    ids = [f"hot{number:04}" for number in range(1000)]
    insert(postgres_store, *ids)
    before = _updates(postgres_store)
    for at in range(0, 1000, 50):
        claim(postgres_store, *ids[at : at + 50])

    def counted() -> tuple[int, int] | None:
        now = _updates(postgres_store)
        done = (now[0] - before[0], now[1] - before[1])
        return done if done[0] >= 1000 else None

    updates, hot = eventually(counted, deadline_s=20, what="statistics of 1000 updates")
    assert hot / updates > 0.8, (hot, updates)  # a claimed row is a little longer than the waiting one


def test_no_index_holds_what_a_claim_changes(postgres_store: SqlStore) -> None:
    """But ``due_at``, which is NULL, and so in no index, while a job is with the broker."""
    changed = {"status", "token", "worker", "started_at", "attempt", "due_at", "wait_reason"}
    for (definition,) in run(
        postgres_store, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'playbill' AND tablename = 'jobs'"
    ):
        words = set(definition.replace("(", " ").replace(")", " ").replace(",", " ").split())
        assert changed & words <= {"due_at"}, definition
        assert "due_at" not in words or "WHERE (due_at IS NOT NULL)" in definition


def test_no_statement_that_reads_jobs_is_prepared(postgres_store: SqlStore) -> None:
    """A plan of the time when the table was empty would be kept when it is full, and scan it for each claim."""
    for number in range(12):
        (job,) = start(postgres_store, f"a{number}")
        postgres_store.settle([ClaimRef(job.id, job.epoch)])
        finish(postgres_store, ended(job))
    for (statement,) in run(postgres_store, "SELECT statement FROM pg_prepared_statements"):
        assert "playbill.jobs j" not in statement
        assert "DELETE" not in statement


def _updates(store: SqlStore) -> tuple[int, int]:
    with store.database.single() as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        row = connection.execute(
            sa.text(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'playbill.jobs'\\:\\:regclass"
            )
        ).one()
        return row[0], row[1]


# -- partitions ------------------------------------------------------------------------------------------------------


def test_purge_makes_partitions_ahead_and_drops_old_ones_whole(postgres_store: SqlStore) -> None:
    (job, failed) = start(postgres_store, "a", "b")
    finish(postgres_store, ended(job), ended(failed, Outcome.FAILED, error=ErrorRecord("E", "")))
    today = postgres_store.now().date()
    old = today - timedelta(days=4)
    with postgres_store.database.write() as connection:
        for kind in ("completed", "ended"):
            connection.execute(
                sa.text(
                    f"CREATE TABLE playbill.jobs_archive_{kind}_{old:%Y%m%d} PARTITION OF"
                    f" playbill.jobs_archive_{kind} FOR VALUES FROM ('{old}Z') TO ('{old + timedelta(days=1)}Z')"
                )
            )
    run(postgres_store, "UPDATE {p}jobs_archive SET finished_at = CAST(:at AS timestamptz)", at=f"{old}T12:00:00Z")
    assert postgres_store.purge(limit=100, leader=lead(postgres_store)) == 1
    with postgres_store.database.read() as connection:
        completed, kept = partitions(connection, "completed"), partitions(connection, "ended")
    assert old not in completed
    assert old in kept
    assert {today + timedelta(days=ahead) for ahead in range(4)} <= completed.keys()
    assert postgres_store.get("a") is None
    assert status(postgres_store, "b") == "failed"
    run(postgres_store, f"DROP TABLE {{p}}jobs_archive_ended_{old:%Y%m%d}")


def test_todays_jobs_are_in_todays_partition(postgres_store: SqlStore) -> None:
    (job,) = start(postgres_store, "a")
    finish(postgres_store, ended(job))
    (row,) = run(
        postgres_store,
        "SELECT tableoid\\:\\:regclass\\:\\:text, (finished_at AT TIME ZONE 'UTC')\\:\\:date FROM {p}jobs_archive",
    )
    # Shown without its schema where that is in the search path, as it is for a user named playbill.
    assert row[0].removeprefix("playbill.") == f"jobs_archive_completed_{row[1]:%Y%m%d}"


# -- connections that break ------------------------------------------------------------------------------------------


def test_connections_that_the_server_closed_are_replaced_unseen(
    postgres_store: SqlStore, postgres_server: Server
) -> None:
    insert(postgres_store, "a")
    pid = run(postgres_store, "SELECT pg_backend_pid()")[0][0]
    admin = sa.create_engine(psycopg_url(str(postgres_server.url.render_as_string(hide_password=False))))
    with admin.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    admin.dispose()
    insert(postgres_store, "b")
    assert status(postgres_store, "b") == "pending"


def test_a_connection_that_breaks_in_mid_transaction_is_unavailable(postgres_store: SqlStore) -> None:
    with pytest.raises(StoreUnavailableError), postgres_store.database.write() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    insert(postgres_store, "a")


def test_a_hung_server_is_unavailable(postgres_store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(postgres_store, "a")
    pid = run(postgres_store, "SELECT pg_backend_pid()")[0][0]
    monkeypatch.setattr(hung, "ANSWER_TIMEOUT_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="no answer within"):
            insert(postgres_store, "b")
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    insert(postgres_store, "c")
    assert status(postgres_store, "c") == "pending"


def test_a_process_frozen_in_a_transaction_loses_its_locks(
    postgres_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the jobs that it has locked could be neither cancelled nor rescued."""
    insert(postgres_store, "a")
    limits = sa.text(engine._LIMITS.text.replace(str(engine.IDLE_TRANSACTION_MS), "300"))
    monkeypatch.setattr(engine, "_LIMITS", limits)
    other = open_sql_store(Settings(store_url=postgres_store.database.url.render_as_string(hide_password=False)))

    def freeze_in_a_transaction() -> None:
        with postgres_store.database.write() as connection:
            connection.execute(sa.text("SELECT id FROM playbill.jobs FOR UPDATE"))
            assert other.claim([ClaimRef("a", 1)], worker="w").refused == {"a": "locked"}
            eventually(lambda: other.claim([ClaimRef("a", 1)], worker="w").claimed, deadline_s=10)
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(StoreUnavailableError):
        freeze_in_a_transaction()
    other.close()


def test_a_locked_row_is_locked_not_missing(postgres_store: SqlStore) -> None:
    insert(postgres_store, "a")
    with postgres_store.database.write() as connection:
        connection.execute(sa.text("SELECT id FROM playbill.jobs FOR UPDATE"))
        assert postgres_store.claim([ClaimRef("a", 1)], worker="w").refused == {"a": "locked"}
    assert claim(postgres_store, "a")


def test_progress_and_rescue_pass_an_open_checkpoint_by(postgres_store: SqlStore, postgres_store_url: str) -> None:
    from playbill.store.values import ProgressUpdate

    (job,) = start(postgres_store, "a", worker="ghost")
    caller = sa.create_engine(postgres_store_url)
    with caller.begin() as connection:
        postgres_store.checkpoint(connection, id="a", epoch=1, token=job.token, done=5, total=9, cursor=5)
        postgres_store.progress([ProgressUpdate("a", 1, job.token, 1, 9)])
        assert (
            postgres_store.rescue(
                poison_limit=3, limit=9, handover=BROKER, relay_after_s=5.0, leader=lead(postgres_store)
            )
            == []
        )
    caller.dispose()
    row = postgres_store.get("a")
    assert row is not None
    assert (row.done, row.status) == (5, "processing")


def test_two_transactions_that_want_one_key_wait_for_each_other(
    postgres_store: SqlStore, postgres_store_url: str
) -> None:
    caller = sa.create_engine(postgres_store_url)
    answers: list[Any] = []
    with caller.connect() as connection:
        postgres_store.insert([new("a", key="k")], handover=RELAY, connection=connection)
        waiter = threading.Thread(
            target=lambda: answers.extend(postgres_store.insert([new("b", key="k")], handover=BROKER))
        )
        waiter.start()
        eventually(lambda: run(postgres_store, "SELECT 1 FROM pg_locks WHERE NOT granted"), deadline_s=10)
        connection.rollback()
        waiter.join(10)
    caller.dispose()
    assert [(answer.id, answer.created) for answer in answers] == [("b", True)]


def test_a_large_batch_survives_every_character(postgres_store: SqlStore) -> None:
    odd = "tab\t newline\n back\\slash \\N \u2603 '\" , {} null"
    jobs = [new(f"{number:04} {odd}", tags=(odd,), message=bytes(range(256)), tenant=odd) for number in range(501)]
    postgres_store.insert(jobs, handover=BROKER)
    row = postgres_store.get(jobs[7].id)
    assert row is not None
    assert (row.tags, row.message, row.tenant) == ((odd,), bytes(range(256)), odd)


# -- PgBouncer -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bounced(postgres_store_url: str, tmp_path: Path, postgres_store: SqlStore) -> Iterator[SqlStore]:
    """The store behind PgBouncer in transaction mode, with one server connection for all."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        pytest.skip("pgbouncer is not installed; apt-get install pgbouncer")
    url = psycopg_url(postgres_store_url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "users.txt").write_text(f'"{url.username}" "{url.password or ""}"\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={url.host} port={url.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {tmp_path}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 50\n"
    )
    options: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        user = pwd.getpwnam("nobody")
        options = {"user": user.pw_uid, "group": user.pw_gid}
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, str(tmp_path / "pgbouncer.ini")], stdout=log, stderr=log, **options)
    through = url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    store = open_sql_store(Settings(store_url=through))
    try:
        eventually(lambda: _answers(store), deadline_s=20, what=f"PgBouncer: {tmp_path}/log")
        yield store
    finally:
        store.close()
        process.terminate()
        process.wait(20)


def _answers(store: SqlStore) -> bool:
    try:
        store.check()
    except StoreUnavailableError:
        return False
    return True


def test_a_jobs_whole_way_behind_pgbouncer_in_transaction_mode(bounced: SqlStore) -> None:
    def work(worker: str) -> None:
        for round_ in range(10):
            ids = [f"{worker} {round_} {number}" for number in range(10)]
            insert(bounced, *ids)
            settle(bounced, *ids)
            jobs = claim(bounced, *ids, worker=worker)
            outcomes = [Outcome.RETRY if number == 3 else Outcome.COMPLETED for number in range(10)]
            finish(bounced, *(ended(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)))

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts = bounced.queue_counts()[0]
    assert (counts.completed, counts.pending, counts.processing) == (450, 50, 0)
    assert len(outbox(bounced)) == 50
    many = [new(f"bulk {number}", delay_s=1.0, key=f"k{number}" if number % 2 else None) for number in range(700)]
    bounced.insert(many[:600], handover=BROKER)
    bounced.insert([new(f"copied {number}") for number in range(600)], handover=IN_STORE)
    leader = lead(bounced)
    rewind(bounced, "jobs", "due_at", 60)
    assert len(bounced.release_due(limit=5000, relay_after_s=5, leader=leader)) == 1200
    assert bounced.rescue(poison_limit=3, limit=9, handover=BROKER, relay_after_s=5, leader=leader) == []
    assert bounced.purge(limit=10, leader=leader) == 0


def test_a_callers_session_behind_pgbouncer_joins_the_store(bounced: SqlStore) -> None:
    caller = sa.create_engine(bounced.database.url, connect_args={"prepare_threshold": None})
    with caller.begin() as connection:
        bounced.insert([new("a")], handover=RELAY, connection=connection)
    caller.dispose()
    assert status(bounced, "a") == "pending"
