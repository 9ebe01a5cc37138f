"""The state machine of a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.policy.states import TERMINAL, TRANSITIONS, WAITING, JobStatus, can_move

statuses = st.sampled_from(JobStatus)


def test_every_status_is_waiting_running_or_ended():
    assert WAITING | TERMINAL | {JobStatus.PROCESSING} == set(JobStatus)
    assert not WAITING & TERMINAL
    assert set(TRANSITIONS) == set(JobStatus)


@given(statuses, statuses)
def test_the_only_way_out_of_an_end_is_redrive(source, target):
    if source.is_terminal and can_move(source, target):
        assert (target, source is not JobStatus.COMPLETED) == (JobStatus.PENDING, True)


@given(statuses, statuses)
def test_only_running_jobs_complete_or_retry(source, target):
    if can_move(source, target) and target in (JobStatus.COMPLETED, JobStatus.RETRYING):
        assert source is JobStatus.PROCESSING


@pytest.mark.parametrize("status", sorted(WAITING))
def test_what_waits_can_start_be_cancelled_and_fail(status):
    for target in (JobStatus.PROCESSING, JobStatus.CANCELLED, JobStatus.FAILED):
        assert can_move(status, target)


@given(statuses)
def test_every_job_can_still_end(status):
    reached, new = {status}, {status}
    while new:
        new = set().union(*(TRANSITIONS[each] for each in new)) - reached
        reached |= new
    assert reached & TERMINAL


@given(statuses)
def test_no_status_moves_to_itself(status):
    assert not can_move(status, status)
