"""Processes are replaced after so many jobs, or at so much memory, and nobody notices."""

from __future__ import annotations

from collections import Counter

import pytest

from playbill.policy.states import JobStatus
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_process_is_replaced_after_so_many_jobs(rabbit: Crew) -> None:
    # Given
    supervisor = rabbit.start(threads=2, max_jobs_per_process=10)
    # When
    rows = rabbit.await_terminal(rabbit.enqueue_many("nap", 30, 20))
    # Then: each job ran once, in its first attempt, and no process went on for long after its limit
    assert {(row.status, row.attempt) for row in rows.values()} == {(JobStatus.COMPLETED, 1)}
    by_process = Counter(note.pid for note in rabbit.notes())
    assert sum(by_process.values()) == 30
    assert max(by_process.values()) < 2 * 10
    assert len(by_process) >= 2
    # And: their end was no accident
    assert rabbit.events(supervisor)["worker.recycled"] >= 2
    assert rabbit.events(supervisor)["worker.process_ended"] == 0


def test_a_process_is_replaced_when_it_has_grown(embedded: Crew) -> None:
    # Given
    supervisor = embedded.start(threads=2, max_memory_mb=300, heartbeat_s=0.2, drain_grace_s=60)
    sibling = embedded.hold()
    old = embedded.await_start(sibling)
    assert embedded.ends(embedded.enqueue("grow", 1)).status is JobStatus.COMPLETED
    assert [worker.pid for worker in embedded.at_work(supervisor)] == [old]
    # When
    assert embedded.ends(embedded.enqueue("grow", 300)).status is JobStatus.COMPLETED
    # Then: a new one takes over at once, and the old one ends with its last job
    eventually(lambda: old not in {worker.pid for worker in embedded.at_work(supervisor) if worker.state == "running"})
    assert embedded.await_start(embedded.enqueue("noop")) != old
    embedded.open()
    row = embedded.ends(sibling)
    assert (row.status, row.attempt) == (JobStatus.COMPLETED, 1)
    assert [note.pid for note in embedded.notes("end", sibling)] == [old]
    reasons = [entry["reason"] for entry in embedded.log(supervisor) if entry["event"] == "worker.recycled"]
    assert reasons == ["resident size over 300 MB"]
