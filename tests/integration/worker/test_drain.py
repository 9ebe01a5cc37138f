"""SIGTERM: what has not started goes back at once, what runs may end, what does not is released."""

from __future__ import annotations

import signal

import psutil
import pytest

from playbill.policy.states import JobStatus
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_worker_told_to_stop_finishes_what_runs_and_gives_the_rest_back_at_once(rabbit: Crew) -> None:
    # Given: a worker that claims short jobs ahead, one job in it and others behind
    first = rabbit.start(drain_grace_s=60)
    rabbit.burst(50)
    job = rabbit.hold()
    old = rabbit.await_start(job)
    waiting = rabbit.enqueue_many("noop", 20)
    # When
    first.signal(signal.SIGTERM)
    # Then: another worker does the rest while that job still runs
    eventually(lambda: rabbit.events(first)["worker.draining"], deadline_s=20)
    rabbit.start()
    rows = rabbit.await_terminal(waiting)
    assert {(row.status, row.attempt) for row in rows.values()} == {(JobStatus.COMPLETED, 1)}
    assert {note.job_id for note in rabbit.notes() if note.pid == old} & set(waiting) == set()
    assert rabbit.row(job).status is JobStatus.PROCESSING
    # And: the job ends where it began, and the worker with it
    rabbit.open()
    assert first.wait() == 0
    row = rabbit.row(job)
    assert (row.status, row.attempt, row.result) == (JobStatus.COMPLETED, 1, '"held"')
    assert len(rabbit.notes("start", job)) == 1


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_what_does_not_end_in_the_grace_period_is_released_and_burns_no_attempt(rabbit: Crew) -> None:
    # Given: one job that ends within the grace period, and one that does not
    worker = rabbit.start(threads=2, drain_grace_s=1.5)
    long, short = rabbit.hold(), rabbit.enqueue("nap", 300)
    rabbit.await_start(long)
    rabbit.await_start(short)
    # When
    assert worker.stop() == 0
    # Then
    assert (rabbit.row(short).status, rabbit.row(short).attempt) == (JobStatus.COMPLETED, 1)
    row = rabbit.row(long)
    assert (row.status, row.attempt, row.crashes) == (JobStatus.PENDING, 0, 0)
    assert row.wait_reason == "released: its worker had to go"
    assert rabbit.store.workers() == []


def test_a_supervisor_that_is_killed_takes_its_processes_along(embedded: Crew) -> None:
    # Given: one busy process and one that idles
    worker = embedded.start(processes=2, drain_grace_s=0.5)
    job = embedded.hold()
    embedded.await_start(job)
    children = worker.children()
    assert len(children) == 2
    # When
    worker.signal(signal.SIGKILL)
    # Then: they leave in order
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (2, [])
    row = embedded.row(job)
    assert (row.status, row.attempt, row.crashes) == (JobStatus.PENDING, 0, 0)
    assert row.wait_reason == "released: its worker had to go"
    assert embedded.store.workers() == []
