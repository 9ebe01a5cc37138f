"""Policy is data: workers that run obey a new one."""

from __future__ import annotations

import time

import pytest

from playbill.policy.states import JobStatus
from playbill.settings import Settings
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_new_policy_is_in_force_within_five_seconds_and_restarts_nothing(rabbit: Crew) -> None:
    # Given: the heartbeat as it comes, and an actor that retries by its own options
    supervisor = rabbit.start(**{name: Settings.model_fields[name].default for name in ("heartbeat_s", "lease_s")})
    first = rabbit.enqueue("refuse")
    eventually(lambda: rabbit.row(first).status is JobStatus.RETRYING, deadline_s=30)
    before = [worker.id for worker in rabbit.at_work(supervisor)]
    # When
    rabbit.store.put_policy(rabbit.queue, {"retry": {"maxAttempts": 1}}, owner="test")
    changed_at = time.monotonic()

    def obeyed() -> bool:
        row = rabbit.row(rabbit.enqueue("refuse"))
        eventually(lambda: rabbit.row(row.id).status in (JobStatus.RETRYING, JobStatus.FAILED), deadline_s=30)
        return rabbit.row(row.id).status is JobStatus.FAILED

    eventually(obeyed, deadline_s=30)
    # Then
    assert time.monotonic() - changed_at < 5.0
    assert [worker.id for worker in rabbit.at_work(supervisor)] == before
