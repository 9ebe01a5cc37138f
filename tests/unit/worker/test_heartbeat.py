"""What a heartbeat tells the store, and what the answer changes."""

from __future__ import annotations

import pytest

from playbill.errors import StoreUnavailableError
from playbill.store.values import CancelAnswer
from playbill.worker import heartbeat as module
from playbill.worker.heartbeat import resident_mb
from tests.support.waiting import eventually


@pytest.fixture
def beat(bench):
    return bench.session.heartbeat.beat


def test_the_store_is_told_what_runs_and_not_what_only_waits(bench, beat):
    running, waiting = bench.begin(), bench.claim()
    beat()
    (row,) = bench.store.workers()
    assert (row.id, row.state, row.running) == (bench.session.worker_id, "running", (running.claimed.id,))
    assert waiting.claimed.id not in row.running


def test_a_worker_that_leaves_says_so_and_keeps_its_lease(bench, beat):
    beat()
    (before,) = bench.store.workers()
    bench.session.leave("recycled")
    beat()
    (row,) = bench.store.workers()
    assert row.state == "draining"
    assert row.lease_expires_at >= before.lease_expires_at


def test_a_cancellation_is_told_to_that_job_alone_and_its_time_is_kept(bench, beat):
    # Given
    cancelled, other = bench.begin(), bench.begin()
    assert bench.store.cancel([cancelled.claimed.id]) == {cancelled.claimed.id: CancelAnswer.CANCELLING}
    # When
    beat()
    # Then
    seen_at = cancelled.cancel_seen_at
    assert cancelled.context.cancelled
    assert seen_at is not None
    assert (other.context.cancelled, other.cancel_seen_at) == (False, None)
    # And: told again, it starts no new grace period
    beat()
    assert cancelled.cancel_seen_at == seen_at


def test_what_was_abandoned_is_no_longer_said_to_run(bench, beat):
    attempt = bench.begin()
    attempt.abandoned = True
    beat()
    assert bench.store.workers()[0].running == ()


def test_policies_are_read_when_their_version_has_changed_and_only_then(bench, beat, monkeypatch):
    # Given
    loads = []
    load = bench.session.policies.load
    monkeypatch.setattr(bench.session.policies, "load", lambda: loads.append(load()))
    beat()
    assert loads == []
    # When
    bench.store.put_policy("work", {"timeLimit": "3s"}, owner="test")
    beat()
    beat()
    # Then
    assert len(loads) == 1
    assert bench.claim().policy.time_limit_s == 3


def test_what_runs_keeps_the_policy_it_began_under(bench, beat):
    attempt = bench.begin()
    bench.store.put_policy("work", {"timeLimit": "3s"}, owner="test")
    beat()
    assert attempt.policy.time_limit_s == 600


def test_after_a_lost_lease_nothing_that_was_claimed_is_the_workers_any_more(bench, beat):
    # Given
    running, waiting, before = bench.begin(), bench.claim(), bench.session.worker_id
    beat()
    bench.lose_lease()
    # When
    beat()
    # Then: it goes on as another one
    assert running.context.lost
    assert not bench.session.holds(waiting)
    assert bench.session.worker_id != before
    assert bench.session.worker_id in {row.id for row in bench.store.workers()}
    # And: what it claims now is its own
    assert bench.session.holds(bench.claim())


def test_a_lease_that_was_not_renewed_in_time_holds_no_more(make_bench, monkeypatch):
    # Given
    bench = make_bench(lease_s=3, heartbeat_s=1)
    heartbeat = bench.session.heartbeat
    granted_at = module.time.monotonic()
    heartbeat.renewed(granted_at)
    # When, Then: the request's time counts, not the answer's
    for age_s, holds in ((0, True), (2.9, True), (3.0, False), (100, False)):
        with monkeypatch.context() as patch:
            patch.setattr(module.time, "monotonic", lambda now=granted_at + age_s: now)
            assert heartbeat.lease_holds is holds


def test_a_store_that_is_away_ends_no_heartbeat(make_bench, monkeypatch):
    # Given
    bench = make_bench(heartbeat_s=0.01)
    beats = []

    def away(*_, **__):
        beats.append(1)
        raise StoreUnavailableError("away")

    monkeypatch.setattr(bench.store, "heartbeat", away)
    heartbeat = bench.session.heartbeat
    # When
    heartbeat.start()
    eventually(lambda: len(beats) > 3)
    # Then
    assert heartbeat.alive
    heartbeat.stop()
    assert not heartbeat.alive


@pytest.mark.parametrize(("limit_mb", "leaves"), [(None, False), (100_000, False), (1, True)])
def test_a_process_that_has_grown_leaves_once(make_bench, limit_mb, leaves):
    bench = make_bench(max_memory_mb=limit_mb)
    for _ in range(3):
        bench.session.heartbeat._check_size()
    assert bench.left == (["resident size over 1 MB"] if leaves else [])
    assert bench.session.leaving is leaves


def test_the_resident_size_is_in_megabytes():
    before = resident_mb()
    ballast = b"x" * 50_000_000
    assert 40 < resident_mb() - before < 80
    del ballast
