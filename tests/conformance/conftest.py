"""Stores to test: the same suite runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from playbill.settings import Settings
from playbill.store.migrate import migrate
from playbill.store.sql import SqlStore, open_sql_store

#: Emptied between tests; partitions follow their parents.
TABLES = (
    "jobs", "jobs_archive", "outbox", "job_keys", "job_groups", "queues", "workers", "leaders", "rollups",
    "parked_messages",
)  # fmt: skip


def psycopg_url(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg")


def as_text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


class Server:
    """A PostgreSQL server on which tests make databases."""

    def __init__(self, url: str) -> None:
        self.url = psycopg_url(url)
        self._engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def create(self, name: str) -> str:
        self.drop(name)
        self._execute(f'CREATE DATABASE "{name}"')
        return as_text(self.url.set(database=name))

    def drop(self, name: str) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _execute(self, sql: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(sa.text(sql))


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Server:
    return Server(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def postgres_store_url(postgres_server: Server) -> Iterator[str]:
    """A migrated database for this session's tests."""
    name = f"playbill_test_{os.getpid()}"
    url = postgres_server.create(name)
    migrate(Settings(store_url=url))
    yield url
    postgres_server.drop(name)


@pytest.fixture
def empty_postgres_url(postgres_server: Server) -> Iterator[str]:
    """A database without any tables."""
    name = f"playbill_test_{os.getpid()}_empty"
    yield postgres_server.create(name)
    postgres_server.drop(name)


@pytest.fixture
def postgres_store(postgres_store_url: str) -> Iterator[SqlStore]:
    """An empty store on PostgreSQL."""
    store = open_sql_store(Settings(store_url=postgres_store_url))
    with store.database.write() as connection:
        for table in TABLES:
            connection.execute(sa.text(f"DELETE FROM playbill.{table}"))
        connection.execute(sa.text("UPDATE playbill.store_meta SET policy_version = 0, schema = 1, min_code = 1"))
    yield store
    store.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty store on SQLite."""
    store = open_sql_store(Settings(store_url=f"sqlite:///{tmp_path}/store.db"))
    yield store
    store.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest) -> SqlStore:
    """An empty store of each kind."""
    found: SqlStore = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def store_url(store: SqlStore) -> str:
    """URL of the store under test."""
    return as_text(store.database.url)


# The suite over all transports (test_broker_*) has its fixtures elsewhere, for the workers' tests use them too.
from tests.support.transports import app, rabbit_app, transport_database  # noqa: E402, F401
