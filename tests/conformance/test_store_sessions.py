"""Jobs and checkpoints in the caller's own transaction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from playbill.errors import FenceLostError, ForeignSessionError, InvalidInputError, JobCancelled
from playbill.settings import Settings
from playbill.store.sql import SqlStore, open_sql_store
from playbill.store.values import JobFilter
from tests.conformance.store_kit import BROKER, RELAY, ended, finish, insert, new, start, status

KINDS = ("session", "scoped", "connection", "psycopg")


class Caller:
    """A caller's own connection to the store's database, of one kind."""

    def __init__(self, url: str, kind: str) -> None:
        self.engine = sa.create_engine(url)
        self.kind = kind
        self.connection: Any
        if kind == "session":
            self.connection = Session(self.engine)
        elif kind == "scoped":
            self.connection = scoped_session(sessionmaker(self.engine))
        elif kind == "connection":
            self.connection = self.engine.connect()
        else:
            self.connection = psycopg.connect(url.replace("+psycopg", ""))

    def execute(self, sql: str) -> list[Any]:
        result = self.connection.execute(sql if self.kind == "psycopg" else sa.text(sql))
        if self.kind == "psycopg":
            return result.fetchall() if result.description else []
        return list(result.all()) if result.returns_rows else []

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()


@pytest.fixture(params=KINDS)
def caller(request: pytest.FixtureRequest, store: SqlStore, store_url: str) -> Iterator[Caller]:
    if request.param == "psycopg" and store.dialect == "sqlite":
        pytest.skip("psycopg is of PostgreSQL")
    found = Caller(store_url, request.param)
    found.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER)")
    found.execute("DELETE FROM orders")
    found.connection.commit()
    yield found
    found.close()


def test_the_job_exists_if_and_only_if_the_callers_transaction_commits(store: SqlStore, caller: Caller) -> None:
    caller.execute("INSERT INTO orders VALUES (1)")
    store.insert([new("a"), new("b", key="k")], handover=RELAY, connection=caller.connection)
    assert store.get("a") is None
    caller.connection.commit()
    assert status(store, "a") == status(store, "b") == "pending"

    caller.execute("INSERT INTO orders VALUES (2)")
    store.insert([new("c"), new("d", key="other")], handover=RELAY, connection=caller.connection)
    caller.connection.rollback()
    assert store.get("c") is None
    assert caller.execute("SELECT id FROM orders") == [(1,)]
    caller.connection.rollback()
    assert store.insert([new("e", key="other")], handover=BROKER)[0].created


def test_a_refused_job_leaves_the_callers_transaction_whole(store: SqlStore, caller: Caller) -> None:
    insert(store, "a")
    caller.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(InvalidInputError, match="exists already"):
        store.insert([new("fresh"), new("a")], handover=RELAY, connection=caller.connection)
    caller.connection.commit()
    assert caller.execute("SELECT id FROM orders") == [(1,)]
    assert store.get("fresh") is None


def test_a_key_held_by_another_job_is_answered_in_the_callers_transaction(store: SqlStore, caller: Caller) -> None:
    insert(store, "a", key="k")
    answers = store.insert([new("b", key="k"), new("c")], handover=RELAY, connection=caller.connection)
    caller.connection.commit()
    assert [(answer.id, answer.created) for answer in answers] == [("a", False), ("c", True)]


def test_many_jobs_in_the_callers_transaction(store: SqlStore, caller: Caller) -> None:
    store.insert([new(f"m{number:04}") for number in range(600)], handover=RELAY, connection=caller.connection)
    caller.connection.rollback()
    assert store.count(JobFilter()) == 0


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_commits_with_the_work(store: SqlStore, caller: Caller) -> None:
    (job,) = start(store, "a")
    for batch in (1, 2):
        caller.execute(f"INSERT INTO orders VALUES ({batch})")
        store.checkpoint(
            caller.connection, id="a", epoch=1, token=job.token, done=batch, total=9, cursor={"last": batch}
        )
        if batch == 1:
            caller.connection.commit()
        else:
            caller.connection.rollback()
    row = store.get("a")
    assert row is not None
    assert (row.done, row.total, row.cursor) == (1, 9, {"last": 1})
    assert caller.execute("SELECT id FROM orders") == [(1,)]


@pytest.mark.parametrize("cursor", [None, 0, "text", [1, {"a": None}], {"ü": 1.5}, False])
def test_a_retry_resumes_at_the_cursor(store: SqlStore, store_url: str, cursor: Any) -> None:
    (job,) = start(store, "a")
    engine = sa.create_engine(store_url)
    with engine.begin() as connection:
        store.checkpoint(connection, id="a", epoch=1, token=job.token, done=5, total=10, cursor=cursor)
    engine.dispose()
    from playbill.store.values import ClaimRef, Outcome

    finish(store, ended(job, Outcome.RETRY))
    (again,) = store.claim([ClaimRef("a", 2)], worker="w2").claimed
    assert (again.cursor, again.done, again.total) == (cursor, 5, 10)


def test_a_checkpoint_of_a_lost_attempt_is_refused_and_rolls_back(store: SqlStore, caller: Caller) -> None:
    (job,) = start(store, "a")
    for fence in ({"epoch": 2, "token": job.token}, {"epoch": 1, "token": job.token + 1}):
        caller.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(FenceLostError):
            store.checkpoint(caller.connection, id="a", done=1, total=None, cursor=1, **fence)
        caller.connection.rollback()
    assert caller.execute("SELECT id FROM orders") == []


def test_a_checkpoint_tells_of_a_cancel(store: SqlStore, caller: Caller) -> None:
    (job,) = start(store, "a")
    store.cancel(["a"])
    with pytest.raises(JobCancelled):
        store.checkpoint(caller.connection, id="a", epoch=1, token=job.token, done=1, total=2, cursor=None)
    caller.connection.rollback()


def test_a_cursor_must_be_json(store: SqlStore, caller: Caller) -> None:
    (job,) = start(store, "a")
    for bad in (object(), float("nan"), {1, 2}):
        with pytest.raises(InvalidInputError, match="cursor"):
            store.checkpoint(caller.connection, id="a", epoch=1, token=job.token, done=1, total=2, cursor=bad)


# -- foreign sessions ------------------------------------------------------------------------------------------------


def _refused(store: SqlStore, connection: Any) -> None:
    with pytest.raises(ForeignSessionError):
        store.insert([new("foreign")], handover=RELAY, connection=connection)
    with pytest.raises(ForeignSessionError):
        store.checkpoint(connection, id="a", epoch=1, token=1, done=1, total=None, cursor=None)
    assert store.get("foreign") is None


def test_a_session_of_the_other_kind_of_database_is_refused(sqlite_store: SqlStore, postgres_store: SqlStore) -> None:
    for mine, other in ((sqlite_store, postgres_store), (postgres_store, sqlite_store)):
        engine = sa.create_engine(other.database.url)
        with Session(engine) as session:
            _refused(mine, session)
        engine.dispose()


def test_a_database_without_a_store_is_refused_and_its_transaction_stays_whole(
    store: SqlStore, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if store.dialect == "sqlite":
        url = f"sqlite:///{tmp_path}/other.db"
    else:
        url = request.getfixturevalue("empty_postgres_url")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE mine (id INTEGER)"))
        _refused(store, connection)
        connection.execute(sa.text("INSERT INTO mine VALUES (1)"))
        connection.commit()
        assert connection.execute(sa.text("SELECT id FROM mine")).all() == [(1,)]
    engine.dispose()


def test_another_store_is_refused(store: SqlStore, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from playbill.store.migrate import migrate

    if store.dialect == "sqlite":
        url = f"sqlite:///{tmp_path}/other.db"
    else:
        url = request.getfixturevalue("empty_postgres_url")
    migrate(Settings(store_url=url))
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        _refused(store, connection)
    engine.dispose()


def test_a_copy_of_the_store_is_refused(store: SqlStore, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A restored backup has the same identity; it is still another database."""
    if store.dialect == "sqlite":
        with store.database.read() as connection:
            connection.exec_driver_sql("SELECT 1")
        url = f"sqlite:///{tmp_path}/copy.db"
        store.close()
        (tmp_path / "copy.db").write_bytes((tmp_path / "store.db").read_bytes())
    else:
        url = request.getfixturevalue("empty_postgres_url")
        from playbill.store.migrate import migrate

        migrate(Settings(store_url=url))
        copied = open_sql_store(Settings(store_url=url))
        with copied.database.write() as connection:
            connection.execute(sa.text("UPDATE playbill.store_meta SET store_id = :id"), {"id": store.store_id})
        copied.close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        _refused(store, connection)
    engine.dispose()


@pytest.mark.parametrize("odd", [object(), "postgresql://x", 7])
def test_what_is_no_session_is_refused(store: SqlStore, odd: Any) -> None:
    _refused(store, odd)


@pytest.mark.postgres
def test_a_raw_psycopg_connection_of_another_database_is_refused(
    postgres_store: SqlStore, sqlite_store: SqlStore, empty_postgres_url: str
) -> None:
    with psycopg.connect(empty_postgres_url.replace("+psycopg", "")) as raw:
        raw.execute("SELECT 1")
        _refused(postgres_store, raw)
        _refused(sqlite_store, raw)
        assert raw.execute("SELECT 2").fetchall() == [(2,)]


@pytest.mark.postgres
def test_a_raw_psycopg_connection_keeps_its_row_factory_and_autocommit(
    postgres_store: SqlStore, postgres_store_url: str
) -> None:
    url = postgres_store_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row) as raw:
        with raw.transaction():
            postgres_store.insert([new("a", key="k")], handover=RELAY, connection=raw)
        assert status(postgres_store, "a") == "pending"
        assert raw.execute("SELECT 1 AS one").fetchone() == {"one": 1}
