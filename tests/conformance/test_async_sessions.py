"""Jobs and checkpoints in the transaction of an async service, on every driver that SQLAlchemy has for its store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import playbill
from playbill.errors import ForeignSessionError, InvalidInputError
from tests.support.transports import App, app_on

DRIVERS = {"sqlite+aiosqlite": "sqlite", "postgresql+psycopg": "postgres", "postgresql+asyncpg": "rabbitmq"}
#: Takes a session and does something with it.
Work = Callable[[Any], Awaitable[Any]]


class AsyncDesk:
    """An async service on the store's database."""

    def __init__(self, app: App, driver: str) -> None:
        self.app = app
        self.url = sa.make_url(app.urls["store_url"]).set(drivername=driver)
        self.act = app.actor(lambda number: number, actor_name="act")

    @asynccontextmanager
    async def session(self, kind: str, url: sa.URL | None = None) -> AsyncIterator[Any]:
        engine = create_async_engine(url or self.url)
        try:
            if kind == "session":
                async with AsyncSession(engine) as session:
                    yield session
            else:
                async with engine.connect() as connection:
                    yield connection
        finally:
            await engine.dispose()

    def run(self, kind: str, work: Work, url: sa.URL | None = None) -> Any:
        async def inside() -> Any:
            async with self.session(kind, url) as session:
                return await work(session)

        return asyncio.run(inside())


@pytest.fixture(
    params=[
        "sqlite+aiosqlite",
        pytest.param("postgresql+psycopg", marks=pytest.mark.postgres),
        pytest.param("postgresql+asyncpg", marks=[pytest.mark.postgres, pytest.mark.rabbitmq]),
    ]
)
def desk(request, tmp_path) -> Iterator[AsyncDesk]:
    app = app_on(DRIVERS[request.param], request, tmp_path)
    yield AsyncDesk(app, request.param)
    app.close()


@pytest.fixture(params=["session", "connection"])
def kind(request) -> str:
    return request.param


def test_the_jobs_exist_if_the_transaction_commits(desk, kind):
    # When
    async def work(session):
        one = await playbill.aenqueue(desk.act, 1, session=session, key="k", tags=["t"], tenant="acme")
        same = await playbill.aenqueue(desk.act, 2, session=session, key="k", tenant="acme")
        many = await playbill.aenqueue_many([desk.act.message(3), desk.act.message(4)], session=session)
        assert desk.app.store.get(one.id) is None
        await session.commit()
        return one, same, many

    one, same, many = desk.run(kind, work)
    # Then
    assert same.id == one.id
    desk.app.work()
    assert [handle.wait(30) for handle in (one, *many)] == [1, 3, 4]


def test_nothing_exists_after_a_rollback(desk, kind):
    async def work(session):
        handle = await playbill.aenqueue(desk.act, 1, session=session)
        await session.rollback()
        return handle

    assert desk.app.store.get(desk.run(kind, work).id) is None


def test_a_checkpoint_commits_with_the_batch_of_an_async_actor(desk, kind):
    # Given
    @desk.app.actor(max_retries=0)
    async def batches() -> int:
        job = playbill.current_job()
        async with desk.session(kind) as session:
            await job.acheckpoint(session, 10, total=22, cursor={"last": 10})
            await session.commit()
            await job.acheckpoint(session, 20, cursor={"last": 20})
            await session.rollback()
        return 1

    desk.app.work()
    # When
    handle = playbill.enqueue(batches)
    # Then
    assert handle.wait(30) == 1
    assert desk.app.row(handle.id).cursor == {"last": 10}


def test_a_session_of_another_database_is_refused(desk, kind, tmp_path):
    other = sa.make_url(f"sqlite+aiosqlite:///{tmp_path}/other.db")

    async def work(session):
        with pytest.raises(ForeignSessionError):
            await playbill.aenqueue(desk.act, 1, session=session)

    desk.run(kind, work, other)


def test_a_session_that_is_not_async_is_refused_by_name(desk):
    engine = sa.create_engine("sqlite://")

    async def work(_):
        with engine.connect() as connection, pytest.raises(InvalidInputError, match=r"session: .*async"):
            await playbill.aenqueue(desk.act, 1, session=connection)

    desk.run("session", work)
    engine.dispose()


def test_an_async_connection_of_psycopgs_own_is_refused_by_name(desk):
    from psycopg import AsyncConnection

    raw = object.__new__(type("AsyncConnection", (), {"__module__": AsyncConnection.__module__}))

    async def work(_):
        with pytest.raises(InvalidInputError, match=r"psycopg\.AsyncConnection is neither .* SQLAlchemy"):
            await playbill.aenqueue(desk.act, 1, session=raw)

    desk.run("session", work)
