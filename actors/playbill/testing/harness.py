"""A private Playbill for one test: its own store and broker, the test's actors, and jobs that run when they should."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import sqlalchemy as sa
from dramatiq import broker as dramatiq_broker
from dramatiq.middleware import Middleware
from sqlalchemy import event
from sqlalchemy.orm import Session

from playbill import client
from playbill.broker.base import PlaybillBroker
from playbill.settings import Settings, load
from playbill.store.clock import now
from playbill.store.sql import SqlStore, open_sql_store
from playbill.store.values import Inserted, JobFilter, JobRow, NewJob
from playbill.testing.rebinding import Rebinding
from playbill.testing.session import CallerSession

#: Jobs that one ``drain`` runs at most: more means that jobs enqueue each other for ever.
MAX_DRAIN = 10_000


class Harness:
    """What a test holds.

    Attributes:
        store: The private store.
        broker: The broker its actors are bound to.
        store_url: URL of the store's SQLite file, for sessions that enqueue in their own transaction.
    """

    def __init__(self, store: SqlStore, broker: PlaybillBroker, session: CallerSession, rebinding: Rebinding) -> None:
        self.store = store
        self.broker = broker
        self.store_url: str = broker.settings.store_url.get_secret_value()
        self._session = session
        self._rebinding = rebinding
        self._turn = threading.RLock()
        self._running = False

    def rebind(self, *actors: dramatiq.Actor[Any, Any]) -> None:
        """Bind further actors for the time of the test (those of the service's own broker are bound already)."""
        self._rebinding.bind(actors)

    def jobs(self) -> list[JobRow]:
        """All jobs of the test, oldest first."""
        return self.store.find(JobFilter(), limit=MAX_DRAIN)[::-1]

    def run_next(self) -> JobRow | None:
        """Run the job that has been due for longest.

        Returns:
            The job as it is afterwards; None where no job is due.
        """
        with self._turn:
            if self._running:
                raise RuntimeError("a job cannot run other jobs: they run after it")
            self._running = True
            try:
                job_id = self._session.run_next()
            finally:
                self._running = False
        return self.store.get(job_id) if job_id is not None else None

    def drain(self, *, ahead: bool = False) -> list[JobRow]:
        """Run all jobs that are due, and those that they enqueue.

        Args:
            ahead: Whether delayed jobs and retries count as due, now and whenever they come up.

        Returns:
            The jobs as they are after each run, in the order of their runs; a retried job is there once a run.

        Raises:
            RuntimeError: Jobs enqueue each other without end.
        """
        ran: list[JobRow] = []
        while True:
            if ahead:
                self.make_due()
            row = self.run_next()
            if row is None:
                return ran
            ran.append(row)
            if len(ran) >= MAX_DRAIN:
                raise RuntimeError(f"{MAX_DRAIN} jobs have run and more are due: do they enqueue each other?")

    def make_due(self) -> None:
        """Let the time come for every job that waits for it: delays, schedules, retries."""
        jobs = self.store.database.tables.jobs
        with self.store.database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.due_at > now()).values(due_at=now()))

    def run_enqueued(self) -> None:
        """Run what is due, unless a job runs: its follow-ups come after it (what ``inline`` does at each enqueue)."""
        if not self._running:
            self.drain()


class _InlineBroker(PlaybillBroker):
    """Tells when something was enqueued."""

    after_commit: Callable[[], None] | None = None

    def commit(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        """Insert, then tell."""
        inserted = super().commit(jobs)
        if self.after_commit is not None:
            self.after_commit()
        return inserted


@contextmanager
def inline(
    *,
    actors: Iterable[dramatiq.Actor[Any, Any]] = (),
    middleware: Sequence[Middleware] | None = None,
    **settings: Any,
) -> Iterator[Harness]:
    """Run each job as soon as it is enqueued and committed, in the caller's thread.

    It goes the way of every job: claimed, run through Dramatiq's worker and all middleware, finished. Retries follow
    at once, each recorded, none waited for. What a job enqueues runs after it. A job that is not due yet waits for
    ``drain(ahead=True)``. An error in a job does not reach the caller; it is where it always is: in the job's handle.

    Args:
        actors: Actors to bind besides those of the service's own broker.
        middleware: Dramatiq middleware; None: that of the configured process.
        **settings: Settings of Playbill, for example ``result_limit_bytes=100``.

    Yields:
        The harness.
    """
    with _harness(actors, middleware, settings, retry_at_once=True) as harness, ExitStack() as stack:
        broker = harness.broker
        assert isinstance(broker, _InlineBroker)
        broker.after_commit = harness.run_enqueued

        def committed(_session: Session) -> None:
            harness.run_enqueued()

        # Jobs enqueued with `session=` exist once that session has committed.
        event.listen(Session, "after_commit", committed)
        stack.callback(event.remove, Session, "after_commit", committed)
        yield harness


@contextmanager
def manual(
    *,
    actors: Iterable[dramatiq.Actor[Any, Any]] = (),
    middleware: Sequence[Middleware] | None = None,
    **settings: Any,
) -> Iterator[Harness]:
    """Keep jobs until the test runs them, with ``run_next()`` or ``drain()``.

    The arguments are those of :func:`inline`.

    Yields:
        The harness.
    """
    with _harness(actors, middleware, settings, retry_at_once=False) as harness:
        yield harness


@contextmanager
def _harness(
    actors: Iterable[dramatiq.Actor[Any, Any]],
    middleware: Sequence[Middleware] | None,
    settings: dict[str, Any],
    *,
    retry_at_once: bool,
) -> Iterator[Harness]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbill-test-"))
        configured = _settings(Path(folder), settings)
        store = open_sql_store(configured)
        store.check()
        before, global_before = client.swap(None), dramatiq_broker.global_broker
        stack.callback(_put_back, before, global_before)
        if middleware is None:
            middleware = before.middleware if before is not None else ()
        broker = _InlineBroker(store, configured, middleware=middleware)
        stack.callback(broker.close)
        client.swap(client.Runtime(configured, store, broker, tuple(middleware), pinned=True))
        dramatiq.set_broker(broker)
        rebinding = Rebinding(broker)
        stack.callback(rebinding.restore)
        rebinding.bind(actors)
        for home in (before.broker if before is not None else None, global_before):
            rebinding.bind(list(home.actors.values()) if home is not None else ())
        rebinding.bind_homeless()
        session = CallerSession(broker, retry_at_once=retry_at_once)
        session.start()
        stack.callback(session.stop)
        yield Harness(store, broker, session, rebinding)


def _settings(folder: Path, given: dict[str, Any]) -> Settings:
    """The process's own settings, but for where things are kept."""
    own = load()
    values = own.model_dump() | {"http_port": None} | given
    return Settings(**values | {"store_url": f"sqlite:///{folder}/playbill.db", "broker_url": None})


def _put_back(runtime: client.Runtime | None, broker: dramatiq.Broker | None) -> None:
    client.swap(runtime)
    dramatiq_broker.global_broker = broker
