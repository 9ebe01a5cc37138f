"""A worker in one process: what makes it sick, when it leaves, and what it gives back."""

from __future__ import annotations

import pytest

from playbill.policy.states import JobStatus
from playbill.store.values import Outcome
from tests.support.waiting import eventually

PARTS = ("finisher", "heartbeat", "watchdog")


@pytest.fixture
def threads(bench):
    """Runs the parts of the worker."""
    parts = {name: getattr(bench.session, name) for name in PARTS}
    for part in parts.values():
        part.start()
    yield parts
    parts["finisher"].close(10)
    parts["heartbeat"].stop()
    parts["watchdog"].stop()


@pytest.fixture
def finishes(bench, monkeypatch):
    """The ends that were handed in."""
    handed = []
    monkeypatch.setattr(bench.session.finisher, "add", handed.append)
    return handed


@pytest.mark.parametrize("name", PARTS)
def test_a_worker_needs_every_thread_until_it_leaves(bench, threads, name):
    # Given
    assert bench.session.sick() is None
    # When
    if name == "finisher":
        threads[name].close(10)
    else:
        threads[name].stop()
    # Then
    eventually(lambda: not threads[name].alive)
    assert bench.session.sick() == f"the {name} thread has died"
    bench.session.leave("replaced")
    assert bench.session.sick() is None


def test_a_worker_leaves_once_whatever_the_reasons(bench):
    for reason in ("first", "second", "first"):
        bench.session.leave(reason)
    assert bench.left == ["first"]


def test_jobs_that_were_given_back_do_not_count_towards_the_process_limit(make_bench, monkeypatch):
    # Given: a process that is replaced after two jobs
    bench = make_bench(max_jobs_per_process=2)
    monkeypatch.setattr(bench.session.finisher, "add", lambda _: None)
    # When
    bench.session.release([bench.claim() for _ in range(3)])
    bench.session.ended(bench.begin())
    # Then
    assert bench.left == []
    bench.session.ended(bench.begin())
    assert bench.left == ["2 jobs done"]


def test_of_all_who_would_end_an_attempt_one_does(bench, finishes):
    # Given: a job that the watchdog gives up on
    attempt = bench.begin()
    bench.session.abandon(attempt, attempt.ended(Outcome.CANCELLED), "does not stop")
    # When: it stops after all, and the worker drains
    bench.session.ended(attempt)
    bench.session.release([attempt])
    bench.session.abandon(attempt, attempt.ended(Outcome.CANCELLED), "does not stop")
    # Then
    assert [finish.outcome for finish in finishes] == [Outcome.CANCELLED]
    assert bench.left == ["does not stop"]


def test_what_is_given_back_waits_as_if_it_had_never_been_claimed(bench, threads):
    # Given
    attempt = bench.claim()
    # When
    bench.session.release([attempt], "the worker drains")
    # Then
    assert threads["finisher"].close(10)
    row = bench.store.get(attempt.claimed.id)
    assert (row.status, row.attempt, row.wait_reason) == (JobStatus.PENDING, 0, "the worker drains")
    assert row.epoch > attempt.claimed.epoch
    assert bench.session.slots.idle()


def test_a_middleware_that_breaks_the_judgement_is_a_failure_and_never_a_success(bench, finishes):
    bench.session.ended(bench.begin())
    (finish,) = finishes
    assert finish.outcome is Outcome.RETRY
    assert finish.error.type == "MiddlewareError"
