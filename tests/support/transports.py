"""The whole way of a job over each transport: SQLite, PostgreSQL without a broker, PostgreSQL with RabbitMQ."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import sqlalchemy as sa
from dramatiq import broker as dramatiq_broker
from sqlalchemy.engine import make_url

from playbill import client
from playbill.scheduler.service import Scheduler
from playbill.settings import Settings
from playbill.store.migrate import migrate
from playbill.store.values import JobRow
from playbill.worker.process import _intake_maker
from playbill.worker.session import WorkerSession
from tests.support.waiting import eventually

TRANSPORTS = ("sqlite", "postgres", "rabbitmq")
#: Short intervals, so that tests take seconds.
QUICK = {
    "heartbeat_s": 0.1,
    "lease_s": 5.0,
    "leader_lease_s": 2.0,
    "relay_after_s": 1.0,
    "progress_interval_ms": 50,
    "cancel_grace_s": 0.3,
    "time_limit_grace_s": 5.0,
    "unknown_actor_retry_s": 0.2,
}


class App:
    """A service and its workers in one process, on a queue of its own.

    Args:
        kind: One of ``TRANSPORTS``.
        urls: ``store_url`` and perhaps ``broker_url``.
    """

    def __init__(self, kind: str, urls: dict[str, Any]) -> None:
        self.kind = kind
        self.queue = f"test-{uuid.uuid4().hex}"
        self.urls = urls
        self._sessions: list[WorkerSession] = []
        self._scheduled = False
        self._ending = contextlib.ExitStack()
        self.configure()

    def configure(self, *, middleware: tuple[Any, ...] = (), **limits: Any) -> None:
        """Configure again, with other settings."""
        client.reset()
        self.runtime = client.configure(Settings(**{**QUICK, **self.urls, **limits}), middleware=middleware)
        self.store = self.runtime.store
        self.broker = self.runtime.broker

    def actor(self, fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """``dramatiq.actor`` on this app's queue."""
        declare = dramatiq.actor(queue_name=options.pop("queue_name", self.queue), **options)
        return declare(fn) if fn is not None else declare

    def work(self, *, threads: int = 4, queues: dict[str, int] | None = None) -> WorkerSession:
        """Start a worker."""
        session = WorkerSession(
            self.broker,
            queues=queues or {self.queue: 1},
            threads=threads,
            make_intake=_intake_maker(self.runtime.settings),
        )
        session.start()
        self._sessions.append(session)
        if self.kind == "rabbitmq":
            # A publish may be lost at any time (a slow server is enough); its relay is part of the promise.
            self.schedule()
        return session

    def schedule(self) -> None:
        """Start a scheduler, once."""
        if self._scheduled:
            return
        self._scheduled = True
        self._ending.enter_context(scheduler_of(self.runtime))

    def row(self, job_id: str) -> JobRow:
        """A job that must exist."""
        found = self.store.get(job_id)
        assert found is not None
        return found

    def ends(self, job_id: str, *, deadline_s: float = 30.0) -> JobRow:
        """Wait for the end of a job."""

        def ended() -> JobRow | None:
            found = self.store.get(job_id)
            return found if found is not None and found.status.is_terminal else None

        found = eventually(ended, deadline_s=deadline_s, what=f"end of {job_id}")
        assert found is not None
        return found

    def close(self) -> None:
        """Stop all workers and forget the configuration."""
        for session in self._sessions:
            if not session.leaving or session._worker is not None:
                session.drain(5.0)
        self._ending.close()
        client.reset()


@contextlib.contextmanager
def scheduler_of(runtime: client.Runtime) -> Iterator[None]:
    """Run a scheduler in a thread."""
    stop = threading.Event()
    settings = runtime.settings
    publisher = client.make_publisher(settings, runtime.store) if settings.broker_url is not None else None
    thread = threading.Thread(target=Scheduler(runtime.store, settings, publisher).run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        if publisher is not None:
            publisher.close()


@pytest.fixture(scope="module")
def transport_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated PostgreSQL database for one module."""
    server = make_url(request.getfixturevalue("postgres_url")).set(drivername="postgresql+psycopg")
    name = f"playbill_app_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = server.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    migrate(Settings(store_url=url))
    yield url
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def app_on(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> App:
    """An app on one transport."""
    if kind == "sqlite":
        return App(kind, {"store_url": f"sqlite:///{tmp_path}/app.db"})
    urls = {"store_url": request.getfixturevalue("transport_database")}
    if kind == "rabbitmq":
        urls["broker_url"] = request.getfixturevalue("rabbitmq_url")
    return App(kind, urls)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("rabbitmq", marks=[pytest.mark.postgres, pytest.mark.rabbitmq]),
    ]
)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    """An app on each transport."""
    before = dramatiq_broker.global_broker
    found = app_on(request.param, request, tmp_path)
    yield found
    found.close()
    dramatiq_broker.global_broker = before


@pytest.fixture
def rabbit_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    """An app on PostgreSQL and RabbitMQ."""
    before = dramatiq_broker.global_broker
    found = app_on("rabbitmq", request, tmp_path)
    yield found
    found.close()
    dramatiq_broker.global_broker = before


@pytest.fixture
def sqlite_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    """An app on SQLite alone."""
    before = dramatiq_broker.global_broker
    found = app_on("sqlite", request, tmp_path)
    yield found
    found.close()
    dramatiq_broker.global_broker = before
