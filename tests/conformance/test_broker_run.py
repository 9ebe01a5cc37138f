"""A job's way over every transport: enqueued, run, ended."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import Retry
from dramatiq.middleware import AgeLimit, Middleware, Retries, ShutdownNotifications, TimeLimit, TimeLimitExceeded

import playbill
from playbill.cli.rows import full_row
from playbill.policy.states import JobStatus
from playbill.store.values import JobFilter
from tests.support.transports import App
from tests.support.waiting import eventually


def test_plain_async_and_generic_actors_run_and_are_tracked(app: App) -> None:
    # Given an actor of each kind
    @app.actor
    def plain(left: int, right: int) -> int:
        return left + right

    @app.actor
    async def later(left: int, right: int) -> int:
        await asyncio.sleep(0)
        return left * right

    class Generic(dramatiq.GenericActor):  # type: ignore[misc, unused-ignore]
        class Meta:
            queue_name = app.queue

        def perform(self, number: int) -> int:
            return -number

    # When they are enqueued and sent
    app.work()
    jobs = [playbill.enqueue(plain, 1, 2), playbill.enqueue(later, 3, 4), playbill.enqueue(Generic, 5)]
    message = plain.send(20, 22)
    # Then all have their results, the plain send too
    assert [job.wait(30) for job in jobs] == [3, 12, -5]
    assert message.get_result(block=True, timeout=30_000) == 42
    assert app.ends(message.message_id).status is JobStatus.COMPLETED


def test_pipelines_and_group_callbacks(app: App) -> None:
    done: list[str] = []

    @app.actor
    def add(left: int, right: int) -> int:
        return left + right

    @app.actor
    def finished(name: str) -> None:
        done.append(name)

    app.work()
    assert (add.message(1, 2) | add.message(10) | add.message(100)).run().get_result(block=True, timeout=30_000) == 113
    group = dramatiq.group([add.message(i, i) for i in range(10)])
    group.add_completion_callback(finished.message("group"))
    group.run()
    assert sorted(group.get_results(block=True, timeout=30_000)) == [2 * i for i in range(10)]
    eventually(lambda: done == ["group"], deadline_s=30)


def test_callbacks_come_once_at_the_final_verdict(app: App) -> None:
    heard: list[Any] = []

    @app.actor
    def good(message_data: dict[str, Any], result: Any) -> None:
        heard.append(("good", result))

    @app.actor
    def bad(message_data: dict[str, Any], error: dict[str, Any]) -> None:
        heard.append(("bad", error["type"]))

    @app.actor(on_success="good", on_failure="bad", max_retries=2, min_backoff=1, max_backoff=2)
    def act(fail: bool) -> str:
        if fail:
            raise ValueError("no")
        return "fine"

    app.schedule()
    app.work()
    failed = app.ends(playbill.enqueue(act, True).id)
    app.ends(playbill.enqueue(act, False).id)
    eventually(lambda: len(heard) == 2, deadline_s=30)
    assert sorted(heard) == [("bad", "ValueError"), ("good", "fine")]
    assert failed.attempt == 3


def test_retries_follow_the_options_of_dramatiq(app: App) -> None:
    attempts: dict[str, int] = {}

    def count(name: str) -> int:
        attempts[name] = attempts.get(name, 0) + 1
        return attempts[name]

    @app.actor(max_retries=0)
    def never() -> None:
        count("never")
        raise ValueError("no")

    @app.actor(max_retries=5, min_backoff=1, throws=(KeyError,))
    def throws() -> None:
        count("throws")
        raise KeyError("expected")

    @app.actor(retry_when=lambda retries, exception: retries < 1, min_backoff=1, max_backoff=2)
    def when() -> None:
        count("when")
        raise ValueError("no")

    @app.actor(max_retries=3, min_backoff=600_000)
    def asks() -> str:
        if count("asks") == 1:
            raise Retry("soon", delay=10)
        return "done"

    app.schedule()
    app.work()
    jobs = {actor.actor_name: playbill.enqueue(actor) for actor in (never, throws, when, asks)}
    rows = {name: app.ends(job.id) for name, job in jobs.items()}
    assert attempts == {"never": 1, "throws": 1, "when": 2, "asks": 2}
    assert {name: row.status.value for name, row in rows.items()} == {
        "never": "failed",
        "throws": "failed",
        "when": "failed",
        "asks": "completed",
    }


def test_results_that_cannot_be_kept_fail_without_a_retry(app: App) -> None:
    @app.actor(max_retries=5, min_backoff=1)
    def big() -> str:
        return "x" * 262_145

    @app.actor(max_retries=5, min_backoff=1)
    def odd() -> object:
        return object()

    app.work()
    rows = [app.ends(playbill.enqueue(actor).id) for actor in (big, odd)]
    assert [(row.attempt, row.error.type if row.error else "") for row in rows] == [
        (1, "ResultTooLarge"),
        (1, "ResultNotSerializable"),
    ]


def test_a_time_limit_is_an_exception_inside_the_actor(app: App) -> None:
    seen: list[str] = []
    held = threading.Event()

    @app.actor(time_limit=200, max_retries=0)
    def slow() -> None:
        try:
            while not held.wait(0.01):
                pass
        except TimeLimitExceeded:
            seen.append("limit")
            raise

    app.work()
    row = app.ends(playbill.enqueue(slow).id)
    assert seen == ["limit"]
    assert row.error is not None
    assert row.error.type == "TimeLimitExceeded"


def test_a_job_that_waited_too_long_expires(app: App) -> None:
    ran: list[int] = []

    @app.actor(max_age=1)
    def act() -> None:
        ran.append(1)

    job = playbill.enqueue(act)
    eventually(lambda: (app.store.now() - job.refresh().row.run_at).total_seconds() > 0.05)
    app.work()
    row = app.ends(job.id)
    assert (row.status, row.error.type if row.error else "", ran) == (JobStatus.FAILED, "Expired", [])


def test_cancel_waiting_and_running(app: App) -> None:
    started, over = threading.Event(), threading.Event()

    @app.actor
    def polite() -> None:
        started.set()
        while not over.wait(0.01):
            playbill.current_job().progress(1)

    @app.actor
    def deaf() -> None:
        started.set()
        while not over.wait(0.01):
            pass

    waiting = playbill.enqueue(polite)
    assert waiting.cancel().value == "cancelled"
    app.work()
    for actor in (polite, deaf):  # at its next checkpoint; by an interrupt after the grace
        started.clear()
        job = playbill.enqueue(actor)
        assert started.wait(30)
        assert job.cancel().value == "cancelling"
        with pytest.raises(playbill.JobCancelled):
            job.wait(30)
    assert app.row(waiting.id).status is JobStatus.CANCELLED


def test_sensitive_arguments_are_masked_in_errors_and_logs(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.actor(sensitive=["code"], max_retries=0)
    def login(user: str, code: str) -> None:
        raise ValueError(f"wrong code {code} of {user}")

    app.work()
    row = app.ends(playbill.enqueue(login, "ann", "tOpSeCrEt-4711").id)
    assert row.error is not None
    assert "ann" in row.error.message
    assert "tOpSeCrEt-4711" not in row.error.message + row.error.traceback + str(row.history)


def test_callbacks_get_the_real_arguments_and_nothing_that_is_shown_of_them_has_secrets(app: App) -> None:
    # Given an actor with a secret, and a callback that needs it
    got: list[Any] = []

    @app.actor
    def report(message_data: dict[str, Any], error: dict[str, Any]) -> None:
        got.append(message_data["args"])

    @app.actor(sensitive=["code"], max_retries=0, on_failure=report.actor_name)
    def login(user: str, code: str) -> None:
        raise ValueError(f"wrong code {code} of {user}")

    # When it fails
    app.work()
    failed = playbill.enqueue(login, "ann", "tOpSeCrEt-4711")
    app.ends(failed.id)
    # Then the callback has the secret, and what is shown of its job has not
    eventually(lambda: got, deadline_s=30)
    assert [list(args) for args in got] == [["ann", "tOpSeCrEt-4711"]]
    (callback,) = app.store.find(JobFilter(queue=app.queue, actor="report"))
    shown = str(full_row(callback))
    assert "ann" in shown
    assert "tOpSeCrEt-4711" not in shown


def test_middleware_of_the_user_works_and_what_playbill_replaces_is_refused(app: App) -> None:
    calls: list[str] = []

    class Spy(Middleware):  # type: ignore[misc, unused-ignore]
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            calls.append("enqueue")

        def before_process_message(self, broker: Any, message: Any) -> None:
            calls.append("before")

        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            calls.append("after")

    app.configure(middleware=(Spy(),))

    @app.actor
    def act() -> int:
        return 1

    app.work()
    assert playbill.enqueue(act).wait(30) == 1
    assert calls == ["enqueue", "before", "after"]
    for replaced in (Retries(), TimeLimit(), AgeLimit(), ShutdownNotifications()):
        with pytest.raises(playbill.ConfigurationError, match=type(replaced).__name__):
            app.broker.add_middleware(replaced)


def test_a_job_of_an_unknown_actor_waits_says_so_and_fails_in_the_end(app: App) -> None:
    # Given a job whose actor this process forgets
    app.configure(unknown_actor_limit_s=1.0)

    @app.actor
    def gone() -> None: ...

    @app.actor
    def other() -> None: ...

    job = playbill.enqueue(gone)
    del app.broker.actors["gone"]
    # When a worker meets it
    app.schedule()
    app.work()
    eventually(lambda: "no worker knows actor gone" in (job.refresh().row.wait_reason or ""), deadline_s=30)
    # Then others run meanwhile, and it fails after the limit
    assert playbill.enqueue(other).wait(30) is None
    assert app.ends(job.id).status is JobStatus.FAILED


def test_drain_gives_back_what_has_not_started_and_burns_no_attempt(app: App) -> None:
    # Given one thread busy, and jobs behind it
    started, over = threading.Event(), threading.Event()

    @app.actor
    def act(number: int) -> int:
        started.set()
        over.wait(30)
        return number

    session = app.work(threads=1)
    jobs = playbill.enqueue_many([act.message(i) for i in range(5)])
    assert started.wait(30)
    # When the worker drains, and the running job ends within the grace
    drained: list[bool] = []
    thread = threading.Thread(target=lambda: drained.append(session.drain(30.0)))
    thread.start()
    eventually(lambda: session.leaving)
    over.set()
    thread.join(60)
    # Then that one is done, and the others wait as if nothing had been
    assert drained == [True]
    rows = [app.row(job.id) for job in jobs]
    assert sorted(row.status.value for row in rows) == ["completed", "pending", "pending", "pending", "pending"]
    assert {row.attempt for row in rows if row.status is JobStatus.PENDING} == {0}


def test_what_does_not_end_within_the_grace_is_released(app: App) -> None:
    started, over = threading.Event(), threading.Event()

    @app.actor
    def stuck() -> None:
        started.set()
        over.wait(60)

    session = app.work(threads=1)
    job = playbill.enqueue(stuck)
    assert started.wait(30)
    assert session.drain(0.1) is False
    row = app.row(job.id)
    over.set()
    assert (row.status, row.attempt) == (JobStatus.PENDING, 0)


def test_an_interrupt_never_kills_a_worker_thread(app: App) -> None:
    # Given actors that return just when their time limit strikes
    @app.actor(time_limit=60, max_retries=0)
    def edge(number: int) -> int:
        threading.Event().wait(0.05 + (number % 10) * 0.003)
        return number

    session = app.work(threads=8)
    jobs = playbill.enqueue_many([edge.message(i) for i in range(120)])
    # Then each ends one way or the other, and all threads live
    rows = [app.ends(job.id, deadline_s=60) for job in jobs]
    assert {row.status for row in rows} <= {JobStatus.COMPLETED, JobStatus.FAILED}
    assert session.sick() is None


def test_a_dead_thread_is_noticed(app: App) -> None:
    @app.actor
    def act() -> None: ...

    session = app.work(threads=2)
    assert session.sick() is None
    assert session._worker is not None
    thread = session._worker.workers[0]
    thread.stop()
    thread.join(10)
    assert "threads have died" in (session.sick() or "")
