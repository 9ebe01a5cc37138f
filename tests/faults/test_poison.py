"""Jobs that kill their process each time."""

from __future__ import annotations

import pytest

from playbill.policy.states import JobStatus

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "kind",
    ["embedded", pytest.param("stage", marks=[pytest.mark.postgres, pytest.mark.rabbitmq])],
)
def test_a_job_that_kills_its_process_fails_with_the_reason_and_harms_no_sibling(request, seed, kind):
    # Given: siblings before and behind it
    stage = request.getfixturevalue(kind)
    stage.start_scheduler()
    stage.enqueue_mix(15)
    poison = stage.enqueue("killer")
    stage.enqueue_mix(15)
    # When
    stage.start_workers(processes=2, threads=3)
    # Then: it fails after three crashes alone, the others end as they should
    stage.settle()
    row = stage.store.get(poison)
    assert row.status is JobStatus.FAILED
    assert row.crashes == 3
    assert row.error.message.startswith(
        "killed its worker 3 times while it ran alone; the last time: killed by SIGKILL"
    )
    assert 4 <= stage.runs()[poison] <= 6  # once or more with others, then three times alone
