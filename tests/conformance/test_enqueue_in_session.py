"""``enqueue(session=...)`` on the client: a job exists, and is published, if and only if its transaction commits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import playbill
from playbill.broker.port import Outgoing
from playbill.client import JobHandle
from tests.support.transports import App
from tests.support.waiting import eventually


class Desk:
    """A service's own session on the store's database, an actor, and what was handed to RabbitMQ."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.published: list[str] = []
        url = sa.make_url(app.urls["store_url"])
        self.engine = sa.create_engine(url if app.kind == "sqlite" else url.set(drivername="postgresql+psycopg"))
        self.session = Session(self.engine)
        self.act = app.actor(lambda number: number, actor_name="act")
        publish = app.broker.publish

        def spy(messages: Sequence[Outgoing]) -> None:
            self.published += [message.id for message in messages]
            publish(messages)

        app.broker.publish = spy  # type: ignore[method-assign]
        with self.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS orders (id INTEGER)"))
            connection.execute(sa.text("DELETE FROM orders"))

    def order(self) -> None:
        """Some work of the service's own (SQLite begins a transaction only at a write)."""
        self.session.execute(sa.text("INSERT INTO orders VALUES (1)"))

    def enqueue(self, number: int, session: Any = None) -> JobHandle:
        return playbill.enqueue(self.act, number, session=session if session is not None else self.session)

    def exists(self, *handles: JobHandle) -> list[bool]:
        return [self.app.store.get(handle.id) is not None for handle in handles]

    def assert_published(self, *handles: JobHandle) -> None:
        """These, in this order, and no other, by the session itself; without RabbitMQ none."""
        rabbit = self.app.kind == "rabbitmq"
        assert self.published == ([handle.id for handle in handles] if rabbit else [])

    def close(self) -> None:
        self.session.close()
        self.engine.dispose()


@pytest.fixture
def desk(app: App) -> Iterator[Desk]:
    found = Desk(app)
    yield found
    found.close()


@pytest.fixture
def rabbit_desk(rabbit_app: App) -> Iterator[Desk]:
    found = Desk(rabbit_app)
    yield found
    found.close()


def test_two_jobs_of_one_transaction_are_published_after_its_commit_and_the_session_goes_on(desk: Desk) -> None:
    # Given two jobs in one transaction
    desk.order()
    first, second = desk.enqueue(1), desk.enqueue(2)
    assert desk.exists(first, second) == [False, False]
    desk.assert_published()
    # When it commits
    desk.session.commit()
    # Then both exist and are published, once
    assert desk.exists(first, second) == [True, True]
    desk.assert_published(first, second)
    # And the session can be used again: what comes next is published alone
    desk.order()
    third = desk.enqueue(3)
    desk.session.commit()
    desk.session.commit()
    assert desk.exists(third) == [True]
    desk.assert_published(first, second, third)


@pytest.mark.parametrize("end", [Session.rollback, Session.close, Session.reset])
def test_a_job_of_a_transaction_that_does_not_commit_is_forgotten(desk: Desk, end: Callable[[Session], None]) -> None:
    desk.order()
    dropped = desk.enqueue(1)
    end(desk.session)
    desk.order()
    kept = desk.enqueue(2)
    desk.session.commit()
    assert desk.exists(dropped, kept) == [False, True]
    desk.assert_published(kept)


def test_an_error_in_the_transaction_leaves_no_job_and_a_usable_session(desk: Desk) -> None:
    with contextlib.suppress(ZeroDivisionError), desk.session.begin():
        desk.order()
        dropped = desk.enqueue(1)
        raise ZeroDivisionError
    with desk.session.begin():
        desk.order()
        kept = desk.enqueue(2)
    assert desk.exists(dropped, kept) == [False, True]
    desk.assert_published(kept)


@pytest.mark.parametrize("inner_commits", [True, False])
@pytest.mark.parametrize("outer_commits", [True, False])
def test_a_savepoint_publishes_nothing_and_takes_back_only_its_own(
    desk: Desk, *, inner_commits: bool, outer_commits: bool
) -> None:
    # Given a job before, one inside, and one after a savepoint that ends either way
    desk.order()
    before = desk.enqueue(1)
    savepoint = desk.session.begin_nested()
    inside = desk.enqueue(2)
    savepoint.commit() if inner_commits else savepoint.rollback()
    after = desk.enqueue(3)
    # Then nothing is published while the transaction is open
    desk.assert_published()
    # When that ends either way
    desk.session.commit() if outer_commits else desk.session.rollback()
    # Then what has committed all the way exists and is published
    committed = {before: outer_commits, inside: outer_commits and inner_commits, after: outer_commits}
    assert desk.exists(*committed) == list(committed.values())
    assert set(desk.published) == {
        handle.id for handle, kept in committed.items() if kept and desk.app.kind == "rabbitmq"
    }


def test_a_savepoint_in_a_savepoint_is_taken_back_with_the_outer_one(desk: Desk) -> None:
    desk.order()
    kept = desk.enqueue(1)
    with contextlib.suppress(ZeroDivisionError), desk.session.begin_nested():
        with desk.session.begin_nested():
            dropped = desk.enqueue(2)
        raise ZeroDivisionError
    desk.session.commit()
    assert desk.exists(kept, dropped) == [True, False]
    desk.assert_published(kept)


def test_a_commit_with_open_savepoints_commits_them_all(desk: Desk) -> None:
    desk.order()
    desk.session.begin_nested()
    desk.session.begin_nested()
    job = desk.enqueue(1)
    desk.session.commit()
    desk.assert_published(job)
    assert desk.exists(job) == [True]


@pytest.mark.parametrize("kind", ["scoped", "connection", "psycopg", "async"])
def test_other_kinds_of_session_are_joined_too(desk: Desk, kind: str) -> None:
    if kind == "psycopg" and desk.app.kind == "sqlite":
        pytest.skip("psycopg is of PostgreSQL")
    with contextlib.ExitStack() as stack:
        given: Any
        if kind == "scoped":
            given = scoped_session(sessionmaker(desk.engine))
            stack.callback(given.remove)
        elif kind == "connection":
            given = stack.enter_context(desk.engine.connect())
        elif kind == "psycopg":
            given = stack.enter_context(contextlib.closing(psycopg.connect(desk.app.urls["store_url"])))
        else:
            given = desk.session  # what AsyncSession.run_sync gives
        dropped = desk.enqueue(1, given)
        given.rollback()
        kept = desk.enqueue(2, given)
        given.commit()
    assert desk.exists(dropped, kept) == [False, True]
    # A Connection and a psycopg connection tell nobody: the relay publishes.
    desk.assert_published(*([kept] if kind in {"scoped", "async"} else []))


def test_a_savepoint_of_a_connection_takes_its_job_back(desk: Desk) -> None:
    with desk.engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        kept = desk.enqueue(1, connection)
        savepoint = connection.begin_nested()
        dropped = desk.enqueue(2, connection)
        savepoint.rollback()
        connection.commit()
    assert desk.exists(kept, dropped) == [True, False]
    desk.assert_published()


def test_a_savepoint_made_behind_the_sessions_back_leaves_its_job_to_the_relay(desk: Desk) -> None:
    desk.order()
    savepoint = desk.session.connection().begin_nested()
    dropped = desk.enqueue(1)
    savepoint.rollback()
    desk.session.commit()
    assert desk.exists(dropped) == [False]
    desk.assert_published()


def test_a_session_inside_a_transaction_of_its_connection_publishes_nothing_by_its_own_commit(desk: Desk) -> None:
    with desk.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection) as session:
            session.execute(sa.text("INSERT INTO orders VALUES (1)"))
            dropped = desk.enqueue(1, session)
            session.commit()
        outer.rollback()
    assert desk.exists(dropped) == [False]
    desk.assert_published()


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_what_a_session_publishes_is_on_rabbitmq_at_once(rabbit_desk: Desk) -> None:
    desk, queue = rabbit_desk, rabbit_desk.app.queue
    for number in range(3):
        desk.enqueue(number)
    desk.session.commit()
    publisher = desk.app.broker.publisher
    assert publisher is not None
    assert eventually(lambda: publisher.flush(10))
    assert eventually(lambda: publisher.depths([queue], 10)[queue] == 3)


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_failing_publisher_does_not_fail_the_commit(rabbit_desk: Desk) -> None:
    # Given a publisher that cannot even be made
    def broken(_messages: Sequence[Outgoing]) -> None:
        raise RuntimeError("no thread left")

    rabbit_desk.app.broker.publish = broken  # type: ignore[method-assign]
    job = rabbit_desk.enqueue(1)
    # When the transaction commits
    rabbit_desk.session.commit()
    # Then it has, and the session goes on; the relay has the job
    rabbit_desk.session.execute(sa.text("SELECT 1"))
    assert rabbit_desk.exists(job) == [True]


@pytest.mark.postgres
def test_a_key_held_by_an_open_transaction_holds_up_nobody_else(app: App) -> None:
    if app.kind == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    # Given an open transaction that holds a key, and an enqueue that waits for it
    desk = Desk(app)
    playbill.enqueue(desk.act, 1, key=desk.app.queue, session=desk.session)
    waiting = threading.Thread(target=playbill.enqueue, args=(desk.act, 2), kwargs={"key": app.queue})
    waiting.start()
    with app.store.database.read() as connection:  # type: ignore[attr-defined]
        blocked = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        eventually(lambda: connection.execute(blocked).scalar_one())
    # When others enqueue
    others: list[JobHandle] = []
    thread = threading.Thread(target=lambda: others.append(playbill.enqueue(desk.act, 3)))
    thread.start()
    # Then they need not wait for it
    eventually(lambda: others, deadline_s=5)
    assert waiting.is_alive()
    desk.session.commit()
    for each in (waiting, thread):
        each.join(20)
    desk.close()
