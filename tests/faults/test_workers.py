"""Workers that die: killed, with and without their supervisor, or told to stop under load."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.faults.stage import Stage
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.slow]


def kill_a_child(stage: Stage, process) -> None:
    """SIGKILL to one worker, at a random moment of its work."""
    children = eventually(process.children, deadline_s=60, what="a worker that lives")
    time.sleep(stage.random.uniform(0, 0.3))  # the random moment; nothing waits for it
    try:
        stage.random.choice(children).kill()
    except psutil.NoSuchProcess:
        return


def test_workers_killed_at_random_moments_lose_nothing(stage):
    # Given: two worker processes, and jobs that keep coming
    stage.start_scheduler()
    workers = stage.start_workers()
    stage.enqueue_mix(60)
    stage.await_started(5)
    # When: one of them is killed, three times over
    for _ in range(3):
        kill_a_child(stage, workers)
        stage.enqueue_mix(20)
    # Then: every promise holds
    stage.settle()


def test_workers_killed_with_their_supervisor_are_rescued_when_their_lease_ends(stage):
    # Given: a supervisor with busy workers, and another that takes over
    stage.start_scheduler()
    workers = stage.start_workers()
    stage.enqueue_mix(80)
    stage.await_started(10)
    # When: nobody is left to tell the store
    workers.kill_group()
    stage.start_workers()
    stage.enqueue_mix(20)
    # Then
    stage.settle()


def test_workers_told_to_stop_under_load_give_back_what_they_hold(stage):
    # Given
    stage.start_scheduler()
    workers = stage.start_workers()
    stage.enqueue_mix(100)
    stage.await_started(10)
    # When: rolled out under load
    assert workers.stop() == 0
    live = sum(not row.status.is_terminal for row in stage.rows().values())
    stage.start_workers()
    # Then: there was work left, nobody was rescued, and all of it is done
    assert live > 0
    stage.settle()
    rescued = [entry for row in stage.rows().values() for entry in row.history if entry.get("outcome") == "rescued"]
    assert rescued == []
