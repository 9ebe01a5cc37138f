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
    # Given: ten workers with one slot each
    crew = rabbit
    crew.start(processes=WORKERS, threads=1)

    def each_starts_one() -> None:
        crew.gate = crew.folder / f"gate-{crew.started()}"
        jobs = crew.enqueue_many("hold", WORKERS, str(crew.gate))
        # Then: the gate is closed, so none has ended
        eventually(lambda: {note.job_id for note in crew.notes()} >= set(jobs), deadline_s=20, what="ten started")
        assert len({note.pid for note in crew.notes() if note.job_id in jobs}) == WORKERS
        crew.open()
        rows = crew.await_terminal(jobs)
        assert {row.attempt for row in rows.values()} == {1}

    # When: ten long jobs are sent at once to workers that know nothing of their length
    each_starts_one()
    # And: when a burst of short ones has led them to claim ahead
    crew.burst(400)
    each_starts_one()
