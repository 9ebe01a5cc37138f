"""How much a worker may claim, and which of its queues gets it."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbill.worker.slots import MAX_WINDOW, SLOW_S, Slots
from tests.support.waiting import eventually

FLUSH_S = 0.01
threads_ = st.integers(1, 1024)  # what the command line takes
durations = st.floats(1e-6, 100)


def slots_of(threads=4, weights=None, *, mean_s=None, flush_s=FLUSH_S):
    """Slots that have seen jobs of one length, if any."""
    slots = Slots(threads, flush_s, weights or {"q": 1})
    if mean_s is not None:
        run(slots, mean_s)
    return slots


def run(slots, run_s, queue="q"):
    """One job from claim to end."""
    slots.claimed_by(queue, 1)
    slots.started()
    slots.finished(run_s)


# -- how much ----------------------------------------------------------------------------------------------------
@given(threads_)
def test_while_nothing_is_known_of_the_jobs_each_free_slot_claims_one(threads):
    slots = slots_of(threads)
    assert slots.slow
    assert slots.target == threads
    assert slots.grant("q", hungry=False) == threads
    slots.claimed_by("q", threads - 1)
    assert slots.grant("q", hungry=True) == 1


@given(threads_, st.floats(SLOW_S, 1e6, exclude_min=True))
def test_long_jobs_are_never_claimed_ahead(threads, mean_s):
    slots = slots_of(threads, mean_s=mean_s)
    slots.claimed_by("q", threads)
    assert slots.slow
    assert slots.grant("q", hungry=True) == 0


@given(threads_, durations, st.floats(0.001, 1))
def test_every_thread_may_have_a_job_and_nobody_claims_more_than_the_window(threads, mean_s, flush_s):
    target = slots_of(threads, mean_s=mean_s, flush_s=flush_s).target
    assert threads <= target <= max(threads, MAX_WINDOW)


@given(threads_, durations, durations)
def test_shorter_jobs_never_mean_less_to_claim(threads, one_s, other_s):
    short, long = sorted((one_s, other_s))
    assert slots_of(threads, mean_s=short).target >= slots_of(threads, mean_s=long).target


def test_short_jobs_are_claimed_two_flush_intervals_ahead():
    assert slots_of(4, mean_s=0.002).target == 4 + 4 * 2 * 5
    assert slots_of(4, mean_s=0.08).target == 4 + 1


def test_a_claim_of_a_few_waits_while_the_threads_have_enough():
    # Given: all that may be claimed is claimed
    slots = slots_of(4, mean_s=0.002)
    slots.claimed_by("q", slots.target)
    # When: less than a quarter has ended
    for _ in range(slots.target // 4 - 1):
        slots.started()
        slots.finished(0.002)
        assert slots.grant("q", hungry=True) == 0
    # Then: the next one makes a claim worth its round trip
    slots.started()
    slots.finished(0.002)
    assert slots.grant("q", hungry=True) == slots.target // 4


# -- how long jobs take ------------------------------------------------------------------------------------------
def test_one_long_job_among_short_ones_does_not_make_them_slow():
    slots = slots_of(mean_s=0.001)
    run(slots, SLOW_S * 10)
    assert not slots.slow


def test_after_one_very_long_job_short_ones_are_soon_claimed_ahead_again():
    slots = slots_of(mean_s=600)
    for _ in range(40):
        run(slots, 0.001)
    assert not slots.slow


def test_jobs_given_back_unstarted_say_nothing_of_the_length_of_jobs():
    slots = slots_of(mean_s=0.001)
    for _ in range(100):
        slots.claimed_by("q", 1)
        slots.finished(0.0, started=False)
    assert (slots.claimed, slots.unstarted) == (0, 0)
    assert slots.target == slots_of(mean_s=0.001).target


def test_a_stall_forgets_how_short_jobs_were():
    slots = slots_of(mean_s=0.001)
    assert not slots.slow
    slots.forget_speed()
    assert slots.slow
    assert slots.target == slots.threads


# -- prefetch ----------------------------------------------------------------------------------------------------
@given(threads_, st.integers(0, 2000), st.none() | st.floats(SLOW_S, 100, exclude_min=True))
def test_of_long_jobs_no_more_messages_are_held_than_slots_are_free(threads, claimed, mean_s):
    slots = slots_of(threads, mean_s=mean_s)
    slots.claimed_by("q", claimed)
    assert slots.prefetch == max(1, threads - claimed)


@given(st.integers(1, MAX_WINDOW), st.floats(1e-6, SLOW_S))
def test_of_short_jobs_twice_the_target_is_held_as_a_power_of_two(threads, mean_s):
    slots = slots_of(threads, mean_s=mean_s)
    assert slots.prefetch.bit_count() == 1
    assert min(2 * slots.target, MAX_WINDOW) <= slots.prefetch <= MAX_WINDOW


# -- weights -----------------------------------------------------------------------------------------------------
def saturated(weights, threads=1):
    """Queues that all have more work than the worker can do."""
    slots = Slots(threads, FLUSH_S, weights)
    first = next(iter(weights))
    slots.claimed_by(first, threads)
    for queue in weights:
        assert slots.grant(queue, hungry=True) == 0  # no room; but from now on they are known to have work
    return slots


def shares(slots, orders):
    """Free one slot after another, let the queues ask in the given order, and count who gets it."""
    got = Counter()
    for order in orders:
        slots.started()
        slots.finished(10.0)
        for queue in order:
            count = slots.grant(queue, hungry=True)
            if count:
                assert count == 1
                slots.claimed_by(queue, count)
                got[queue] += count
    return got


weights_ = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=2)


@settings(max_examples=30)
@given(weights_, st.randoms(use_true_random=False))
def test_queues_that_all_have_work_get_slots_by_their_weights_in_whatever_order_they_ask(weights, random):
    # Given
    slots = saturated(weights)
    # When
    count = 10 * sum(weights.values())
    got = shares(slots, [random.sample(sorted(weights), len(weights)) for _ in range(count)])
    # Then: none is ever further from its share than one job of the lightest
    assert got.total() == count  # no slot stays free
    for queue, weight in weights.items():
        assert abs(got[queue] / weight - 10) <= 2 / min(weights.values()) + 1


def test_a_batch_of_slots_is_shared_by_weight_too():
    slots = saturated({"heavy": 3, "light": 1}, threads=40)
    for _ in range(40):
        slots.started()
        slots.finished(10.0)
    assert slots.grant("light", hungry=True) == 10


def test_who_comes_back_after_a_pause_has_no_credit_of_idle_time():
    # Given: one queue had the worker to itself for long
    slots = Slots(1, FLUSH_S, {"busy": 1, "idle": 1})
    for _ in range(1000):
        run(slots, 10.0, "busy")
    slots.claimed_by("busy", 1)
    slots.grant("busy", hungry=True)
    # When: the other has work again
    slots.started()
    slots.finished(10.0)
    assert slots.grant("idle", hungry=False) == 1
    slots.claimed_by("idle", 1)
    got = shares(slots, [("idle", "busy")] * 20)
    # Then: they share from now on
    assert abs(got["idle"] - got["busy"]) <= 2


@pytest.mark.parametrize("weight", [1, 1000])
def test_a_queue_without_work_holds_nobody_up(weight):
    slots = Slots(4, FLUSH_S, {"busy": 1, "idle": weight})
    assert slots.grant("idle", hungry=False) == 4
    for _ in range(10):
        slots.claimed_by("busy", 4)
        for _ in range(4):
            slots.started()
            slots.finished(10.0)
        assert slots.grant("idle", hungry=False) >= 1  # it looks, and finds nothing
        assert slots.grant("busy", hungry=True) == 4


# -- counting ----------------------------------------------------------------------------------------------------
@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from(["claim", "start", "end", "give back"]), durations), max_size=200),
)
def test_whatever_happens_claims_stay_within_what_was_granted(threads, steps):
    slots = Slots(threads, FLUSH_S, {"q": 1})
    running = ended = 0
    for step, run_s in steps:
        if step == "claim":
            granted = slots.grant("q", hungry=True)
            assert 0 <= granted <= max(0, slots.target - slots.claimed)
            slots.claimed_by("q", granted)
        elif step == "start" and slots.unstarted:
            slots.started()
            running += 1
        elif step == "end" and running:
            slots.finished(run_s)
            running, ended = running - 1, ended + 1
        elif step == "give back" and slots.unstarted:
            slots.finished(0.0, started=False)
            ended += 1
        assert slots.claimed == slots.unstarted + running
        assert slots.ended == ended
        assert slots.idle() == (slots.claimed == 0)
        assert 1 <= slots.prefetch <= MAX_WINDOW


# -- waiting -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wait", [("wait_for_room", "q", 60), ("wait_for_change", 60)], ids=lambda wait: wait[0])
def test_who_waits_is_woken_by_the_end_of_a_job(wait):
    # Given
    slots = slots_of(1)
    slots.claimed_by("q", 1)
    slots.started()
    name, *arguments = wait
    thread = threading.Thread(target=getattr(slots, name), args=arguments)
    thread.start()
    eventually(lambda: slots.changed._waiters)
    # When
    slots.finished(10.0)
    # Then
    thread.join(10)
    assert not thread.is_alive()


def test_who_waits_for_its_turn_waits_although_there_is_room():
    # Given: room, but another queue with work has had less
    slots = saturated({"late": 1, "early": 1})
    slots.started()
    slots.finished(10.0)
    assert slots.grant("late", hungry=True) == 0
    thread = threading.Thread(target=slots.wait_for_room, args=("late", 60))
    # When
    thread.start()
    eventually(lambda: slots.changed._waiters)
    # Then: it goes on when the other one finds nothing
    slots.grant("early", hungry=False)
    thread.join(10)
    assert not thread.is_alive()
    assert slots.grant("late", hungry=True) == 1
