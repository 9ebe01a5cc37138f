"""When what runs is told to stop, and when nobody waits for it any longer."""

from __future__ import annotations

import pytest
from dramatiq.middleware import TimeLimitExceeded

from playbill.store.values import Outcome
from playbill.worker.interrupts import CancelInterrupt, LeaseLostInterrupt
from playbill.worker.watchdog import STALL_S

LIMITS = {"time_limit_s": 10, "time_limit_grace_s": 5, "cancel_grace_s": 3}


class Interrupts:
    """A guard that notes what it is to raise."""

    def __init__(self):
        self.raised = []

    def interrupt(self, kind):
        if self.raised:
            return False
        self.raised.append(kind)
        return True


@pytest.fixture
def bench(make_bench):
    return make_bench(**LIMITS)


@pytest.fixture
def attempt(bench):
    """An attempt that began at 100 s, and stops for nothing."""
    found = bench.begin()
    found.interrupts = Interrupts()
    found.soft_at, found.hard_at = 110.0, 115.0
    return found


@pytest.fixture
def look(bench, attempt):
    """Looks at the attempt, at a time."""
    return lambda now: bench.session.watchdog._look_at(attempt, now)


@pytest.fixture
def finishes(bench, monkeypatch):
    """The ends that were handed in."""
    handed = []
    monkeypatch.setattr(bench.session.finisher, "add", handed.append)
    return handed


def test_within_its_limit_a_job_is_left_alone(bench, attempt, look, finishes):
    look(109.9)
    assert (attempt.interrupts.raised, finishes, bench.left) == ([], [], [])


def test_at_its_soft_limit_a_job_is_interrupted_and_may_go_on_for_the_grace_period(bench, attempt, look, finishes):
    look(110.0)
    look(114.9)
    assert attempt.interrupts.raised == [TimeLimitExceeded]
    assert (finishes, bench.left) == ([], [])


def test_at_its_hard_limit_a_job_ends_with_the_reason_and_its_process_with_it(bench, attempt, look, finishes):
    for now in (110.0, 115.0, 115.1, 200.0):
        look(now)
    (finish,) = finishes
    assert (finish.id, finish.outcome) == (attempt.claimed.id, Outcome.RETRY)
    assert finish.error.type == "TimeLimitExceeded"
    assert finish.error.message == ("did not stop within 5 s after its time limit of 10 s; the process was replaced")
    assert bench.left == ["hard time limit"]
    assert attempt.abandoned


def test_a_job_without_a_limit_may_run_for_ever(attempt, look, finishes):
    attempt.soft_at = attempt.hard_at = None
    look(1e9)
    assert (attempt.interrupts.raised, finishes) == ([], [])


def test_a_job_that_has_returned_in_time_is_not_abandoned(bench, attempt, look, finishes):
    # Given: its own thread is just handing in its end
    assert attempt.may_end()
    # When
    look(115.0)
    # Then
    assert (finishes, bench.left, attempt.abandoned) == ([], [], False)


def test_a_cancelled_job_has_time_for_a_checkpoint_then_for_an_interrupt_then_none(bench, attempt, look, finishes):
    attempt.cancel_seen_at = 100.0
    look(102.9)
    assert attempt.interrupts.raised == []
    look(103.0)
    assert attempt.interrupts.raised == [CancelInterrupt]
    look(107.9)
    assert (finishes, bench.left) == ([], [])
    look(108.0)
    assert [finish.outcome for finish in finishes] == [Outcome.CANCELLED]
    assert bench.left == ["a cancelled job does not stop"]


def test_a_job_whose_lease_is_lost_is_stopped_at_once_and_given_back_if_it_does_not(bench, attempt, look, finishes):
    attempt.context.lost = True
    look(101.0)
    assert attempt.interrupts.raised == [LeaseLostInterrupt]
    look(105.9)
    assert (finishes, bench.left) == ([], [])
    look(106.0)
    assert [finish.outcome for finish in finishes] == [Outcome.RELEASE]
    assert bench.left == ["a lost job does not stop"]


def test_a_job_that_has_ended_is_not_looked_at(bench, attempt, look, finishes):
    attempt.concluded = True
    attempt.context.lost = True
    look(1e9)
    assert (attempt.interrupts.raised, finishes, bench.left) == ([], [], [])


# -- stalls ------------------------------------------------------------------------------------------------------
@pytest.fixture
def unhoarded(bench, monkeypatch):
    """When what waits was given back."""
    times = []
    monkeypatch.setattr(bench.session, "unhoard", lambda: times.append(1))
    return times


def test_claimed_work_that_does_not_move_is_given_back(bench, unhoarded):
    watch = bench.session.watchdog._look_for_stall
    watch(100.0)
    bench.claim()
    watch(100.0 + STALL_S * 0.9)
    assert unhoarded == []
    watch(100.0 + STALL_S * 1.1)
    assert unhoarded == [1]
    watch(100.0 + STALL_S * 2)
    assert unhoarded == [1]  # at most once an interval


def test_work_that_moves_is_kept(bench, unhoarded):
    watch, slots = bench.session.watchdog._look_for_stall, bench.session.slots
    for step in range(20):
        slots.claimed_by("work", 2)
        slots.started()
        slots.finished(0.01)
        watch(100.0 + step * STALL_S)
    assert slots.unstarted > 0
    assert unhoarded == []


def test_long_jobs_with_nothing_behind_them_are_no_stall(bench, unhoarded):
    watch = bench.session.watchdog._look_for_stall
    bench.begin()
    watch(100.0)
    watch(1000.0)
    assert unhoarded == []
