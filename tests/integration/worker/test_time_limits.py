"""The hard time limit: the process of a job that does not stop is replaced, and nobody else pays for it."""

from __future__ import annotations

import psutil
import pytest

from playbill.policy.states import JobStatus
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_job_over_its_hard_limit_fails_and_its_siblings_do_not(rabbit: Crew) -> None:
    # Given: a process with one job that stops for nothing, and one that is just long
    rabbit.start(threads=2, time_limit_grace_s=0.3, drain_grace_s=60)
    sibling, deaf = rabbit.hold(), rabbit.hold("deaf_once")
    old = rabbit.await_start(sibling)
    rabbit.await_start(deaf)
    # When: the limit passes, while more jobs come
    waiting = rabbit.enqueue_many("noop", 5)
    row = rabbit.ends(deaf)
    # Then: it has failed with the reason, after it was asked to stop
    assert (row.status, row.attempt, row.crashes) == (JobStatus.FAILED, 1, 0)
    assert row.error is not None
    assert row.error.type == "TimeLimitExceeded"
    assert row.error.message.startswith("did not stop within 0.3 s after its time limit of 0.3 s")
    assert len(rabbit.notes("TimeLimitExceeded", deaf)) == 1
    # And: a new process does what waits, while the sibling goes on in the old one and ends there
    rows = rabbit.await_terminal(waiting)
    assert {(each.status, each.attempt) for each in rows.values()} == {(JobStatus.COMPLETED, 1)}
    assert {note.pid for note in rabbit.notes() if note.job_id in waiting} & {old} == set()
    rabbit.open()
    ended = rabbit.ends(sibling)
    assert (ended.status, ended.attempt, ended.history) == (JobStatus.COMPLETED, 1, ())
    assert [note.pid for note in rabbit.notes("end", sibling)] == [old]


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_job_over_its_hard_limit_is_retried_in_a_new_process(rabbit: Crew) -> None:
    # Given: a worker that claims short jobs ahead, so that some wait in it behind the one that hangs
    rabbit.start(time_limit_grace_s=0.3)
    rabbit.burst(50)
    deaf = rabbit.hold("deaf")
    old = rabbit.await_start(deaf)
    siblings = rabbit.enqueue_many("noop", 20)
    # When
    row = rabbit.ends(deaf)
    # Then: the first attempt counts, and tells why it ended
    assert (row.status, row.attempt, row.result) == (JobStatus.COMPLETED, 2, '"at last"')
    assert [entry["error"]["type"] for entry in row.history] == ["TimeLimitExceeded"]
    assert rabbit.notes("start", deaf)[1].pid != old
    # And: those behind it ran once, in their first attempt
    rows = rabbit.await_terminal(siblings)
    assert {(each.status, each.attempt, each.crashes) for each in rows.values()} == {(JobStatus.COMPLETED, 1, 0)}
    assert sorted(note.job_id for note in rabbit.notes() if note.job_id in rows) == sorted(siblings)


def test_a_process_whose_job_hangs_is_gone_once_its_siblings_have_ended(embedded: Crew) -> None:
    # Given
    embedded.start(threads=2, time_limit_grace_s=0.3, drain_grace_s=60)
    deaf = embedded.hold("deaf_once")
    old = psutil.Process(embedded.await_start(deaf))
    # When
    embedded.ends(deaf)
    # Then: there is nobody to wait for; what hangs must not go on beside its own retry
    eventually(lambda: not old.is_running(), deadline_s=5, what="the end of the old process")
