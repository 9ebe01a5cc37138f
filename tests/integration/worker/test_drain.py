"""SIGTERM: what has not started goes back at once, what runs may end, what does not is released."""

from __future__ import annotations

import signal

import psutil
import pytest

from playbill.policy.states import JobStatus
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually


def test_a_worker_told_to_stop_finishes_what_runs_and_gives_the_rest_back_at_once(crew: Crew) -> None:
    # Given: a worker that claims short jobs ahead, one job in it and others behind
    first = crew.start(drain_grace_s=60)
    crew.burst(50)
    job = crew.hold()
    old = crew.await_start(job)
    waiting = crew.enqueue_many("noop", 20)
    # When
    first.signal(signal.SIGTERM)
    # Then: another worker does the rest while that job still runs
    eventually(lambda: crew.events(first)["worker.draining"], deadline_s=20)
    crew.start()
    rows = crew.await_terminal(waiting)
    assert {(row.status, row.attempt) for row in rows.values()} == {(JobStatus.COMPLETED, 1)}
    assert {note.job_id for note in crew.notes() if note.pid == old} & set(waiting) == set()
    assert crew.row(job).status is JobStatus.PROCESSING
    # And: the job ends where it began, and the worker with it
    crew.open()
    assert first.wait() == 0
    row = crew.row(job)
    assert (row.status, row.attempt, row.result) == (JobStatus.COMPLETED, 1, '"held"')
    assert len(crew.notes("start", job)) == 1


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_what_does_not_end_in_the_grace_period_is_released_and_burns_no_attempt(rabbit: Crew) -> None:
    crew = rabbit
    # Given: one job that ends within the grace period, and one that does not
    worker = crew.start(threads=2, drain_grace_s=1.5)
    long, short = crew.hold(), crew.enqueue("nap", 300)
    crew.await_start(long)
    crew.await_start(short)
    # When
    assert worker.stop() == 0
    # Then
    assert (crew.row(short).status, crew.row(short).attempt) == (JobStatus.COMPLETED, 1)
    row = crew.row(long)
    assert (row.status, row.attempt, row.crashes) == (JobStatus.PENDING, 0, 0)
    assert row.wait_reason == "released: its worker had to go"
    assert crew.store.workers() == []
    # And: the next worker runs it as if nothing had been
    crew.start()
    crew.await_start(long, 2)
    crew.open()
    assert (crew.ends(long).status, crew.row(long).attempt) == (JobStatus.COMPLETED, 1)


def test_a_supervisor_that_is_killed_takes_its_processes_along(embedded: Crew) -> None:
    crew = embedded
    # Given: one busy process and one that idles
    worker = crew.start(processes=2, drain_grace_s=0.5)
    job = crew.hold()
    crew.await_start(job)
    children = worker.children()
    assert len(children) == 2
    # When
    worker.signal(signal.SIGKILL)
    # Then: they leave in order
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (2, [])
    row = crew.row(job)
    assert (row.status, row.attempt, row.crashes) == (JobStatus.PENDING, 0, 0)
    assert row.wait_reason == "released: its worker had to go"
    assert crew.store.workers() == []
