"""Migration, identity, refusals, failures of the database, forks."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from playbill.errors import (
    ConfigurationError,
    StoreError,
    StoreNotMigratedError,
    StoreTooNewError,
    StoreUnavailableError,
)
from playbill.settings import Settings
from playbill.store import open_store
from playbill.store.migrate import Migrated, migrate
from playbill.store.sql import SqlStore
from playbill.store.tables import build
from playbill.store.values import JobFilter
from tests.conformance.store_kit import BROKER, IN_STORE, insert, new, run, status

Revision = Callable[[str], None]


def test_the_store_keeps_its_identity(store: SqlStore, store_url: str) -> None:
    store.check()
    other = open_store(Settings(store_url=store_url))
    assert other.store_id == store.store_id
    assert len(store.store_id) == 36
    other.close()


def test_a_closed_store_opens_again_when_it_is_used(store: SqlStore) -> None:
    insert(store, "a")
    store.close()
    assert status(store, "a") == "pending"


def test_migrating_again_changes_nothing(store: SqlStore, store_url: str) -> None:
    insert(store, "a")
    assert migrate(Settings(store_url=store_url)) == Migrated()
    assert status(store, "a") == "pending"


@pytest.mark.postgres
def test_postgresql_is_not_migrated_by_itself(empty_postgres_url: str) -> None:
    store = open_store(Settings(store_url=empty_postgres_url))
    with pytest.raises(StoreNotMigratedError, match="playbill migrate"):
        store.check()
    with pytest.raises(StoreNotMigratedError, match="playbill migrate"):
        store.insert([new()], handover=BROKER)
    assert migrate(Settings(store_url=empty_postgres_url)) == Migrated(("0001",))
    store.check()
    store.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_two_migrations_at_once_make_one_schema(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue("empty_postgres_url")
    done: list[Migrated] = []
    threads = [threading.Thread(target=lambda: done.append(migrate(Settings(store_url=url)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(each.applied for each in done) == [(), (), (), ("0001",)]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_the_tables_are_what_the_migrations_make(kind: str, request: pytest.FixtureRequest) -> None:
    store: SqlStore = request.getfixturevalue(f"{kind}_store")
    tables = build(store.dialect)
    with store.database.read() as connection:
        inspector = sa.inspect(connection)
        for table in tables.metadata.tables.values():
            made = {column["name"]: column for column in inspector.get_columns(table.name, schema=table.schema)}
            assert list(made) == [column.name for column in table.c], table.name
            for column in table.c:
                assert made[column.name]["nullable"] is column.nullable, (table.name, column.name)


def test_newer_and_older_stores_are_refused(store: SqlStore) -> None:
    run(store, "UPDATE {p}store_meta SET min_code = 99")
    with pytest.raises(StoreTooNewError, match="upgrade Playbill"):
        store.check()
    run(store, "UPDATE {p}store_meta SET min_code = 1, schema = 0")
    with pytest.raises(StoreNotMigratedError, match="playbill migrate"):
        store.check()
    run(store, "UPDATE {p}store_meta SET schema = 99")  # migrations only expand: newer is fine
    store.check()


def test_a_store_that_needs_newer_code_is_not_migrated(store: SqlStore, store_url: str, revision: Revision) -> None:
    # Given
    run(store, "UPDATE {p}store_meta SET min_code = 99")
    # When, Then
    with pytest.raises(StoreTooNewError, match="level 99 or newer"):
        migrate(Settings(store_url=store_url))
    revision("9999")
    with pytest.raises(StoreTooNewError, match="upgrade Playbill"):
        migrate(Settings(store_url=store_url))


def test_a_store_of_newer_code_that_lets_this_code_work_is_left_alone(
    store: SqlStore, store_url: str, revision: Revision
) -> None:
    # Given
    revision("9999")
    # When
    done = migrate(Settings(store_url=store_url))
    # Then
    assert done == Migrated(newer="9999")
    store.check()


@pytest.fixture
def revision(store: SqlStore) -> Iterator[Revision]:
    """Write another revision into the store; the true one comes back at the end."""

    def write(value: str) -> None:
        run(store, "UPDATE {p}alembic_version SET version_num = :value", value=value)

    yield write
    write("0001")
    run(store, "UPDATE {p}store_meta SET min_code = 1")


# -- wrong settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://u:secret@h/d", "mysql is not supported"),
        ("oracle://u:secret@h/d", "oracle is not supported"),
        ("postgresql+psycopg2://u:secret@h/d", "psycopg 3"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite+aiosqlite:///x.db", "sqlite:///file"),
    ],
)
def test_a_wrong_url_names_the_setting_and_the_remedy(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        open_store(Settings(store_url=url))
    assert "store_url" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("folder", ["file", "mistyped/deep"])
def test_a_directory_that_is_none_is_a_wrong_setting_and_is_not_made(tmp_path: Path, folder: str) -> None:
    # Given
    (tmp_path / "file").write_text("")
    # When, Then
    with pytest.raises(ConfigurationError, match=f"no directory {tmp_path}/{folder}: make it, or correct the path"):
        open_store(Settings(store_url=f"sqlite:///{tmp_path}/{folder}/store.db"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_store(Settings(store_url=f"sqlite:///{tmp_path}/store.db"))


# -- a database that fails -------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable_and_no_password_is_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = open_store(Settings(store_url=f"postgresql://user:secret@127.0.0.1:{port}/db"))
    with pytest.raises(StoreUnavailableError) as caught:
        store.insert([new()], handover=BROKER)
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_told_and_nothing_is_half_written(sqlite_store: SqlStore) -> None:
    insert(sqlite_store, "before")
    with sqlite_store.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    with sqlite_store.database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match=r"disk of the store .* is full, nothing was written"):
        sqlite_store.insert([new(f"big{number}", message=b"x" * 20_000) for number in range(20)], handover=BROKER)
    assert run(sqlite_store, "SELECT count(*) FROM {p}jobs") == [(1,)]
    assert status(sqlite_store, "before") == "pending"


def test_reads_of_a_locked_sqlite_file_go_on(sqlite_store: SqlStore, store_path: Path) -> None:
    insert(sqlite_store, "a")
    other = sa.create_engine(f"sqlite:///{store_path}")
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert status(sqlite_store, "a") == "pending"
    other.dispose()


@pytest.fixture
def store_path(sqlite_store: SqlStore) -> Path:
    return Path(sqlite_store.database.url.database or "")


# -- processes -------------------------------------------------------------------------------------------------------


def test_a_forked_child_has_connections_of_its_own(store: SqlStore) -> None:
    insert(store, "a")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            insert(store, "of the child", handover=IN_STORE)
            code = 0 if status(store, "a") == "pending" else 2
        finally:
            os._exit(code)
    for number in range(20):
        insert(store, f"of the parent {number}")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert status(store, "of the child") == "pending"
    assert len(store.find(JobFilter())) == 22


def test_a_process_holds_two_connections_at_most(store: SqlStore) -> None:
    threads = [threading.Thread(target=insert, args=(store, f"t{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    pool = store.database.engine.pool
    assert isinstance(pool, sa.QueuePool)
    assert pool.size() == 2
    assert pool.checkedin() <= 2
    assert pool.checkedout() == 0
