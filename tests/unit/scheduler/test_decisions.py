from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.scheduler.decisions import (
    FIRST_BACKOFF_S,
    LONGEST_BACKOFF_S,
    TICKS_BEYOND_WORKERS,
    TICKS_WITHIN_WORKERS,
    Excess,
    backoff_s,
    judge_missing,
    may_hand_over,
    next_run_s,
    next_statistics_s,
)


@given(st.integers(min_value=1, max_value=10_000), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_backoff_stays_within_its_bounds(failures, chance):
    assert FIRST_BACKOFF_S / 2 <= backoff_s(failures, chance) <= LONGEST_BACKOFF_S


@given(st.integers(min_value=1, max_value=50), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_backoff_never_shrinks_with_failures(failures, chance):
    assert backoff_s(failures, chance) <= backoff_s(failures + 1, chance)


def test_a_full_batch_runs_on_at_once_and_an_empty_one_rests():
    assert next_run_s(1000, limit=1000, busy_s=0.25, idle_s=1.0) == 0.0
    assert next_run_s(1, limit=1000, busy_s=0.25, idle_s=1.0) == 0.25
    assert next_run_s(0, limit=1000, busy_s=0.25, idle_s=1.0) == 1.0


@given(st.floats(min_value=0, max_value=1000))
def test_statistics_take_no_more_than_a_twentieth_of_the_time(took_s):
    pause_s = next_statistics_s(took_s, least_s=5.0)
    assert pause_s >= 5.0
    assert pause_s >= took_s * 20


@pytest.mark.parametrize(
    ("healthy", "owed_s", "expected"),
    [(True, None, True), (False, None, False), (True, 1.0, False), (True, 5.0, True), (False, 9.0, False)],
)
def test_rows_are_taken_for_a_healthy_publisher_that_owes_nothing_or_owes_it_for_too_long(healthy, owed_s, expected):
    assert may_hand_over(healthy=healthy, owed_s=owed_s, patience_s=5.0) is expected


class TestMissing:
    def run(self, ticks, could_hold):
        """What is republished at each tick, given (awaiting, ready) of each."""
        excess, answers = None, []
        for awaiting, ready in ticks:
            verdict = judge_missing(excess, awaiting=awaiting, ready=ready, could_hold=could_hold)
            excess = verdict.excess
            answers.append(verdict.republish)
        return answers

    def test_nothing_is_missing_while_the_broker_holds_as_much(self):
        assert self.run([(10, 10), (10, 12)], 0) == [0, 0]

    def test_an_excess_of_one_tick_is_left(self):
        assert self.run([(10, 0), (10, 10), (10, 0)], 0) == [0, 0, 0]

    def test_an_excess_beyond_what_workers_hold_is_published_at_the_second_tick(self):
        assert self.run([(10, 0), (10, 0), (10, 10)], 5) == [0, 10, 0]

    def test_an_excess_that_workers_could_hold_takes_longer_but_is_published_too(self):
        answers = self.run([(3, 0)] * TICKS_WITHIN_WORKERS, 512)
        assert answers == [0] * (TICKS_WITHIN_WORKERS - 1) + [3]

    def test_only_what_was_missing_all_the_time_is_published(self):
        assert self.run([(10, 0), (10, 6)], 0) == [0, 4]

    def test_counting_begins_anew_after_a_publish(self):
        assert self.run([(10, 0)] * 4, 0) == [0, 10, 0, 10]

    @given(
        st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=30),
        st.integers(min_value=0, max_value=600),
    )
    def test_never_more_than_the_least_of_the_last_ticks(self, ticks, could_hold):
        for at, republished in enumerate(self.run(ticks, could_hold)):
            if republished:
                window = ticks[max(0, at - TICKS_BEYOND_WORKERS + 1) : at + 1]
                assert republished <= min(awaiting - ready for awaiting, ready in window)

    def test_the_first_excess_is_remembered(self):
        assert judge_missing(None, awaiting=5, ready=2, could_hold=0).excess == Excess(least=3, ticks=1)
