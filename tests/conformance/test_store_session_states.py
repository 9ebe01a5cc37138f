"""Callers' sessions in which no job could be atomic with anything, and what is said of them."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from playbill.errors import InvalidInputError
from playbill.store.sql import SqlStore
from tests.conformance.store_kit import RELAY, new


def refused(store: SqlStore, session: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^session: .*{words}"):
        store.insert([new("a")], handover=RELAY, connection=session)
    assert store.get("a") is None


def test_an_engine_in_autocommit_is_refused(store: SqlStore, store_url: str) -> None:
    for engine in (
        sa.create_engine(store_url, isolation_level="AUTOCOMMIT"),
        sa.create_engine(store_url).execution_options(isolation_level="AUTOCOMMIT"),
    ):
        with engine.connect() as connection:
            refused(store, connection, "autocommit")
        with Session(engine) as session:
            refused(store, session, "autocommit")
        engine.dispose()


def test_an_engine_of_sqlite_that_begins_by_an_event_is_no_autocommit(sqlite_store: SqlStore) -> None:
    # Given SQLAlchemy's recipe for real transactions on sqlite3
    engine = sa.create_engine(sqlite_store.database.url)

    @sa.event.listens_for(engine, "connect")
    def no_begin_of_the_driver(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    # When, Then: the second time the engine is known already
    for job_id in ("a", "b"):
        with engine.connect() as connection:
            sqlite_store.insert([new(job_id)], handover=RELAY, connection=connection)
            assert sqlite_store.get(job_id) is None
            connection.commit()
        assert sqlite_store.get(job_id) is not None
    engine.dispose()


@pytest.mark.postgres
def test_a_psycopg_connection_without_a_usable_transaction_is_refused(
    postgres_store: SqlStore, postgres_store_url: str
) -> None:
    url = postgres_store_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as raw:
        refused(postgres_store, raw, "autocommit")
    refused(postgres_store, raw, "closed")
    with psycopg.connect(url) as raw:
        with pytest.raises(psycopg.errors.UndefinedTable):
            raw.execute("SELECT * FROM nowhere")
        refused(postgres_store, raw, "has failed; roll it back")
        raw.rollback()
        postgres_store.insert([new("a")], handover=RELAY, connection=raw)
    assert postgres_store.get("a") is not None


def test_a_closed_connection_of_sqlalchemys_is_refused(store: SqlStore, store_url: str) -> None:
    engine = sa.create_engine(store_url)
    connection = engine.connect()
    connection.close()
    refused(store, connection, "closed")
    engine.dispose()


@pytest.mark.parametrize("kind", ["session", "connection"])
def test_an_async_session_is_told_to_await(sqlite_store: SqlStore, kind: str) -> None:
    async def work() -> None:
        engine = create_async_engine(sqlite_store.database.url.set(drivername="sqlite+aiosqlite"))
        async with AsyncSession(engine) if kind == "session" else engine.connect() as session:
            refused(sqlite_store, session, "is async: `await playbill.aenqueue")
        await engine.dispose()

    asyncio.run(work())
