"""``notify_shutdown``: an actor may hear that its worker stops, and nothing around the actor does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq import broker as dramatiq_broker
from dramatiq.middleware import Middleware, Shutdown

import playbill
from playbill.policy.states import JobStatus
from tests.support.transports import App, app_on
from tests.support.waiting import eventually


@pytest.fixture
def sqlite_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    before = dramatiq_broker.global_broker
    found = app_on("sqlite", request, tmp_path)
    yield found
    found.close()
    dramatiq_broker.global_broker = before


def test_an_actor_that_wants_to_hears_of_the_shutdown_and_is_released(sqlite_app: App) -> None:
    # Given an actor that wants to know, and one that does not
    app, running, over = sqlite_app, threading.Semaphore(0), threading.Event()
    heard: list[str] = []

    @app.actor(notify_shutdown=True)
    def polite() -> None:
        running.release()
        try:
            while not over.wait(0.01):
                pass
        except Shutdown:
            heard.append("polite")
            raise

    @app.actor
    def deaf() -> str:
        running.release()
        assert over.wait(30)
        return "done"

    session = app.work(threads=2)
    told, other = playbill.enqueue(polite), playbill.enqueue(deaf)
    assert running.acquire(timeout=30)
    assert running.acquire(timeout=30)
    # When their worker drains
    thread = threading.Thread(target=session.drain, args=(30.0,))
    thread.start()
    eventually(lambda: heard)
    over.set()
    thread.join(60)
    # Then the first goes back without an attempt burnt, and the second ends
    assert (app.row(told.id).status, app.row(told.id).attempt) == (JobStatus.PENDING, 0)
    assert app.row(other.id).status is JobStatus.COMPLETED


def test_a_shutdown_does_not_strike_the_post_processing_of_an_actor_that_has_ended(sqlite_app: App) -> None:
    # Given an actor that has returned, and a middleware of the user that still works on it
    app, after, told, over = sqlite_app, threading.Event(), threading.Event(), threading.Event()
    struck: list[BaseException] = []

    class Slow(Middleware):  # type: ignore[misc, unused-ignore]
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            after.set()
            try:
                while not over.wait(0.01):
                    pass
            except BaseException as error:
                struck.append(error)
                raise

        def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
            told.set()  # the last of all middleware to be told

    app.configure(middleware=(Slow(),))

    @app.actor(notify_shutdown=True)
    def act() -> str:
        return "done"

    session = app.work(threads=1)
    job = playbill.enqueue(act)
    assert after.wait(30)
    # When its worker drains
    thread = threading.Thread(target=session.drain, args=(30.0,))
    thread.start()
    assert told.wait(30)
    over.set()
    thread.join(60)
    # Then nobody was struck, and the job is done
    assert struck == []
    assert app.row(job.id).status is JobStatus.COMPLETED
