"""No worker keeps a job to itself that another could start."""

from __future__ import annotations

import pytest

from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually

WORKERS = 10


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_ten_long_jobs_start_on_ten_workers_before_any_ends(rabbit: Crew) -> None:
    # Given: ten long jobs, for workers with one slot each that come one after another
    jobs = rabbit.enqueue_many("hold", WORKERS, str(rabbit.gate))
    rabbit.start(processes=WORKERS, threads=1)
    # Then: every worker starts one, although none has ended
    assert_each_worker_has_one(rabbit, jobs)
    rabbit.open()
    rabbit.await_terminal(jobs)
    # Given: a burst of short jobs, after which workers hold and claim many ahead
    rabbit.burst(400)
    # When: ten long ones come with short ones between them, so that the broker gives them to a few workers only
    gate = rabbit.folder / "second gate"
    mixed = rabbit.enqueue_all(([("hold", str(gate))] + [("noop",)] * (WORKERS - 1)) * WORKERS)
    # Then
    assert_each_worker_has_one(rabbit, mixed[::WORKERS])
    gate.touch()
    rows = rabbit.await_terminal(jobs + mixed)
    assert {row.attempt for row in rows.values()} == {1}


def assert_each_worker_has_one(rabbit: Crew, jobs: list[str]) -> None:
    def started() -> dict[str, int]:
        return {note.job_id: note.pid for note in rabbit.notes() if note.job_id in jobs}

    eventually(lambda: len(started()) == WORKERS, deadline_s=20, what="ten long jobs that run at once")
    assert len(set(started().values())) == WORKERS


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_worker_whose_slots_are_busy_holds_no_message_that_another_could_start(rabbit: Crew) -> None:
    # Given: two workers with one slot each, which know jobs that are too long to be claimed ahead and too short to be
    # called long; one of them has a very long one now
    rabbit.start(processes=2, threads=1)
    rabbit.await_terminal(rabbit.enqueue_many("nap", 40, 40))
    rabbit.await_start(rabbit.hold())
    # When: more jobs come, and the broker sends each worker some
    jobs = rabbit.enqueue_many("noop", 8)
    # Then: the one that is free does them all
    rabbit.await_terminal(jobs, deadline_s=5)
