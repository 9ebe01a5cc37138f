"""Inline mode: a job runs as soon as it is enqueued, on the way that every job goes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
import pytest
import sqlalchemy as sa
from dramatiq.middleware import Middleware
from sqlalchemy.orm import Session

import playbill
from playbill import client
from playbill.testing import Harness, assert_enqueued, inline


def test_a_sent_message_has_run_when_send_returns(playbill_inline: Harness) -> None:
    # Given an actor
    seen: list[int] = []

    @dramatiq.actor
    def note(number: int) -> int:
        seen.append(number)
        return number * 2

    # When it is sent a message in the plain way of Dramatiq
    message = note.send(21)
    # Then it has run, and the result is there
    assert seen == [21]
    assert message.get_result() == 42


def test_an_async_actor_runs_too(playbill_inline: Harness) -> None:
    @dramatiq.actor
    async def double(number: int) -> int:
        return number * 2

    assert playbill.enqueue(double, 4).result == 8


def test_every_retry_is_recorded_and_none_is_waited_for(playbill_inline: Harness) -> None:
    # Given an actor that fails twice, with a backoff of an hour
    attempts: list[int] = []

    @dramatiq.actor(max_retries=5, min_backoff=3_600_000)
    def shaky() -> str:
        attempts.append(playbill.current_job().attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "done"

    # When it is enqueued
    job = playbill.enqueue(shaky)
    # Then all attempts have run, and the failed ones are in the history
    assert attempts == [1, 2, 3]
    assert job.result == "done"
    assert [entry["error"]["type"] for entry in job.row.history] == ["ValueError", "ValueError"]


def test_a_failure_is_in_the_handle_and_not_at_the_caller(playbill_inline: Harness) -> None:
    failures: list[Any] = []

    @dramatiq.actor
    def report(message_data: dict[str, Any], error: dict[str, Any]) -> None:
        failures.append(error["type"])

    @dramatiq.actor(max_retries=1, on_failure=report.actor_name)
    def broken() -> None:
        raise KeyError("x")

    job = playbill.enqueue(broken)
    with pytest.raises(playbill.JobFailed):
        job.wait(0)
    assert failures == ["KeyError"]


def test_what_a_job_enqueues_runs_after_it(playbill_inline: Harness) -> None:
    order: list[str] = []

    @dramatiq.actor
    def child() -> None:
        order.append("child")

    @dramatiq.actor
    def parent() -> None:
        child.send()
        order.append(f"parent {playbill.current_job().actor}")

    playbill.enqueue(parent)
    assert order == ["parent parent", "child"]


def test_a_job_of_a_session_runs_after_its_commit_and_not_after_a_rollback(playbill_inline: Harness) -> None:
    # Given an actor and a session on the harness's database
    seen: list[str] = []

    @dramatiq.actor
    def note(text: str) -> None:
        seen.append(text)

    engine = sa.create_engine(playbill_inline.store_url)
    # When one transaction commits and one rolls back
    with Session(engine) as session:
        playbill.enqueue(note, "kept", session=session)
        assert seen == []
        session.commit()
        assert seen == ["kept"]
        playbill.enqueue(note, "dropped", session=session)
        session.rollback()
    engine.dispose()
    # Then only the first has run
    assert seen == ["kept"]


def test_a_delayed_job_waits_until_the_test_lets_time_pass(playbill_inline: Harness) -> None:
    @dramatiq.actor
    def later() -> str:
        return "now"

    job = playbill.enqueue(later, delay=timedelta(hours=1))
    assert job.refresh().status is playbill.JobStatus.SCHEDULED
    (row,) = playbill_inline.drain(ahead=True)
    assert row.id == job.id
    assert job.result == "now"


def test_checkpoint_and_progress_work_as_ever(playbill_inline: Harness) -> None:
    engine = sa.create_engine(playbill_inline.store_url)

    @dramatiq.actor
    def counting() -> int:
        job = playbill.current_job()
        for done in range(3):
            with Session(engine) as session:
                job.checkpoint(session, done + 1, total=3, cursor={"at": done})
                session.commit()
        return int(job.cursor["at"])

    job = playbill.enqueue(counting)
    engine.dispose()
    assert (job.result, job.progress.percent) == (2, 100)


def test_middleware_of_the_user_sees_the_job() -> None:
    class Spy(Middleware):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.calls: list[str] = []

        def before_process_message(self, broker: Any, message: Any) -> None:
            self.calls.append("before")

        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            self.calls.append(f"after {result}")

    spy = Spy()
    with inline(middleware=[spy]):

        @dramatiq.actor
        def act() -> str:
            return "x"

        act.send()
    assert spy.calls == ["before", "after x"]


def test_configure_of_the_code_under_test_does_not_replace_the_harness(playbill_inline: Harness) -> None:
    runtime = playbill.configure(store_url="postgresql://nobody@nowhere/none")
    assert runtime.store is playbill_inline.store


def test_the_harness_leaves_nothing_behind() -> None:
    before = dramatiq.broker.global_broker
    with inline(result_limit_bytes=10) as harness:
        assert harness.broker.settings.result_limit_bytes == 10
        assert dramatiq.get_broker() is harness.broker
    assert dramatiq.broker.global_broker is before
    with pytest.raises(playbill.ConfigurationError):
        client.runtime()


def test_pipelines_and_groups_run_to_their_end(playbill_inline: Harness) -> None:
    done: list[str] = []

    @dramatiq.actor
    def add(left: int, right: int) -> int:
        return left + right

    @dramatiq.actor
    def finished() -> None:
        done.append("all")

    pipe = (add.message(1, 2) | add.message(10)).run()
    assert pipe.get_result() == 13
    group = dramatiq.group([add.message(1, 1), add.message(2, 2)])
    group.add_completion_callback(finished.message())
    group.run()
    assert list(group.get_results()) == [2, 4]
    assert done == ["all"]
    assert_enqueued(finished, count=1)
