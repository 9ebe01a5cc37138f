"""Cancelling what runs: it is heard within a heartbeat, and then it becomes pressing."""

from __future__ import annotations

import time

import pytest

from playbill.policy.states import JobStatus
from playbill.settings import Settings
from playbill.store.values import CancelAnswer
from tests.integration.worker.crew import Crew

IMPATIENT = {"heartbeat_s": 0.2, "cancel_grace_s": 0.3, "time_limit_grace_s": 0.3, "drain_grace_s": 60}
HEARTBEAT_S, LEASE_S = (Settings.model_fields[name].default for name in ("heartbeat_s", "lease_s"))


def cancel(crew: Crew, job: str) -> None:
    assert crew.store.cancel([job]) == {job: CancelAnswer.CANCELLING}


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_running_job_hears_of_its_cancellation_within_two_seconds(rabbit: Crew) -> None:
    # Given: the settings as they come
    rabbit.start(heartbeat_s=HEARTBEAT_S, lease_s=LEASE_S)
    job = rabbit.hold("polite")
    rabbit.await_start(job)
    # When
    cancelled_ns = time.time_ns()
    cancel(rabbit, job)
    # Then: it stops at its next checkpoint
    row = rabbit.ends(job)
    assert (row.status, row.attempt) == (JobStatus.CANCELLED, 1)
    (heard,) = rabbit.notes("heard", job)
    assert HEARTBEAT_S == 2.0
    assert (heard.at_ns - cancelled_ns) / 1e9 < HEARTBEAT_S + 0.5  # half a second for a busy machine


def test_a_job_that_no_exception_stops_is_cancelled_with_its_process(embedded: Crew) -> None:
    # Given: beside another one
    embedded.start(threads=2, **IMPATIENT)
    sibling, deaf = embedded.hold(), embedded.hold("deaf_for_long")
    old = embedded.await_start(sibling)
    embedded.await_start(deaf)
    # When
    cancel(embedded, deaf)
    # Then
    assert embedded.ends(deaf).status is JobStatus.CANCELLED
    assert len(embedded.notes("CancelInterrupt", deaf)) == 1
    assert embedded.await_start(embedded.enqueue("noop")) != old
    # And: the other one ends as if nothing had been
    embedded.open()
    row = embedded.ends(sibling)
    assert (row.status, row.attempt) == (JobStatus.COMPLETED, 1)
    assert [note.pid for note in embedded.notes("end", sibling)] == [old]
