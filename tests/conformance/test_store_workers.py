"""Workers, their leases, and the rescue of what dead ones ran."""

from __future__ import annotations

import pytest

from playbill.store.sql import SqlStore
from playbill.store.values import JobFilter, Outcome, ProgressUpdate, Rescued
from tests.conformance.store_kit import (
    BROKER,
    IN_STORE,
    LEADER,
    claim,
    ended,
    finish,
    insert,
    keys,
    lead,
    register,
    rewind,
    start,
    status,
)


def rescue(store: SqlStore, poison_limit: int = 3, limit: int = 100, handover=BROKER) -> list[Rescued]:
    return store.rescue(
        poison_limit=poison_limit, limit=limit, handover=handover, relay_after_s=5.0, leader=lead(store)
    )


def die(store: SqlStore, worker: str) -> None:
    """Let the worker's lease end."""
    rewind(store, "workers", "lease_expires_at", 3600, "id = :id", id=worker)


# -- leases ----------------------------------------------------------------------------------------------------------


def test_a_registered_worker_is_seen_while_its_lease_lives(store: SqlStore) -> None:
    register(store, "w1", "w2")
    rows = {row.id: row for row in store.workers()}
    assert rows.keys() == {"w1", "w2"}
    row = rows["w1"]
    assert (row.hostname, row.pid, row.queues, row.actors, row.slots) == ("host", 1, ("mail",), ("send",), 8)
    assert (row.version, row.state, row.running) == ("1.0", "starting", ())
    assert row.lease_expires_at > row.heartbeat_at
    die(store, "w1")
    assert [row.id for row in store.workers()] == ["w2"]


def test_a_heartbeat_renews_and_tells_what_to_cancel(store: SqlStore) -> None:
    register(store, "w1", "w2")
    start(store, "a", "b")
    start(store, "c", worker="w2")
    store.cancel(["b", "c"])
    reply = store.heartbeat("w1", lease_s=20, running=["a", "b", "c"], state="draining")
    assert (reply.known, reply.cancelling, reply.policy_version) == (True, ("b",), 0)
    row = next(row for row in store.workers() if row.id == "w1")
    assert (row.state, row.running) == ("draining", ("a", "b", "c"))
    assert abs((row.lease_expires_at - store.now()).total_seconds() - 20) < 5
    store.put_policy("mail", {"maxAge": "1h"}, owner="up")
    assert store.heartbeat("w1", lease_s=20, running=[]).policy_version == 1


def test_a_late_heartbeat_saves_a_worker_that_was_not_rescued_yet(store: SqlStore) -> None:
    register(store, "w1")
    start(store, "a")
    die(store, "w1")
    assert store.heartbeat("w1", lease_s=15, running=["a"]).known
    assert rescue(store) == []


def test_a_rescued_worker_learns_that_it_is_unknown(store: SqlStore) -> None:
    register(store, "w1")
    (job,) = start(store, "a")
    die(store, "w1")
    assert [each.id for each in rescue(store)] == ["a"]
    assert not store.heartbeat("w1", lease_s=15, running=["a"]).known
    assert finish(store, ended(job)) == set()
    assert store.workers() == []


def test_a_worker_half_rescued_cannot_come_back(store: SqlStore) -> None:
    register(store, "w1")
    start(store, "a", "b")
    die(store, "w1")
    assert len(rescue(store, limit=1)) == 1
    assert not store.heartbeat("w1", lease_s=15, running=["b"]).known
    assert len(rescue(store, limit=1)) == 1
    assert rescue(store) == []


def test_nobody_knows_a_worker_that_never_registered(store: SqlStore) -> None:
    assert not store.heartbeat("ghost", lease_s=15, running=[]).known


# -- rescue ----------------------------------------------------------------------------------------------------------


def test_a_rescued_job_runs_again_as_a_suspect_without_a_burnt_attempt(store: SqlStore) -> None:
    register(store, "w1")
    start(store, "a", "b")
    store.end_worker("w1", reason="out of memory (oom_kill)")
    rescued = rescue(store)
    assert [(each.id, each.worker, each.failed) for each in rescued] == [("a", "w1", False), ("b", "w1", False)]
    assert [(each.publish.id, each.publish.epoch) for each in rescued if each.publish] == [("a", 2), ("b", 2)]
    row = store.get("a")
    assert row is not None
    assert (row.status, row.epoch, row.attempt, row.crashes) == ("pending", 2, 0, 0)
    assert row.history[0]["outcome"] == "rescued"
    assert row.history[0]["worker"] == "w1"
    assert "oom_kill" in row.history[0]["error"]["message"]
    (again,) = claim(store, "a", epoch=2)
    assert (again.suspect, again.attempt) == (True, 1)


def test_without_a_broker_rescued_jobs_wait_in_the_store(store: SqlStore) -> None:
    register(store, "w1")
    start(store, "a", handover=BROKER)
    die(store, "w1")
    assert [each.publish for each in rescue(store, handover=IN_STORE)] == [None]
    assert [job.id for job in store.claim_next(["mail"], 1, worker="w2")] == ["a"]


def test_jobs_of_a_worker_without_a_row_are_rescued(store: SqlStore) -> None:
    start(store, "a", worker="ghost")
    assert [(each.id, each.worker) for each in rescue(store)] == [("a", "ghost")]


def test_living_workers_keep_their_jobs(store: SqlStore) -> None:
    register(store, "w1", "w2")
    start(store, "a", worker="w1")
    start(store, "b", worker="w2")
    insert(store, "waiting")
    die(store, "w2")
    assert [each.id for each in rescue(store)] == ["b"]
    assert [status(store, id_) for id_ in ("a", "waiting")] == ["processing", "pending"]


def test_only_a_crash_alone_counts_and_the_limit_fails_the_job(store: SqlStore) -> None:
    epoch = 1
    insert(store, "a", key="k")
    for crash in (0, 1, 2, 3):
        worker = f"w{crash}"
        register(store, worker)
        (job,) = claim(store, "a", worker=worker, epoch=epoch)
        assert job.suspect is (crash > 0)
        if crash > 0:
            store.run_alone(worker, "a")
        store.end_worker(worker, reason=f"signal 9, the {crash}. time")
        (rescued,) = rescue(store, poison_limit=3)
        epoch += 1
        row = store.get("a")
        assert row is not None
        assert row.crashes == crash
        assert rescued.failed is (crash == 3)
    assert (row.status, len(row.history)) == ("failed", 4)
    assert row.error is not None
    assert row.error.type == "PoisonJob"
    assert "signal 9, the 3. time" in row.error.message
    assert keys(store) == {}
    assert store.redrive(JobFilter(), limit=9, handover=BROKER).redriven == 1
    again = store.get("a")
    assert again is not None
    assert again.crashes == 0


def test_a_suspect_that_ended_alone_is_not_blamed_for_the_next_crash(store: SqlStore) -> None:
    register(store, "w1")
    start(store, "a", "b")
    store.run_alone("w1", "a")
    store.run_alone("w1", None)
    die(store, "w1")
    rescue(store, poison_limit=1)
    assert [status(store, id_) for id_ in "ab"] == ["pending", "pending"]


def test_a_job_being_cancelled_ends_with_its_worker(store: SqlStore) -> None:
    register(store, "w1")
    start(store, "a")
    store.cancel(["a"])
    die(store, "w1")
    (rescued,) = rescue(store)
    assert (rescued.failed, rescued.publish) == (False, None)
    assert status(store, "a") == "cancelled"


def test_only_the_leader_rescues(store: SqlStore) -> None:
    start(store, "a", worker="ghost")
    options = {"poison_limit": 3, "limit": 9, "handover": BROKER, "relay_after_s": 5.0}
    assert store.rescue(leader="nobody", **options) == []
    lead(store)
    rewind(store, "leaders", "expires_at", 120)
    assert store.rescue(leader=LEADER, **options) == []
    assert status(store, "a") == "processing"


# -- progress --------------------------------------------------------------------------------------------------------


def test_progress_is_written_for_the_attempts_that_own_their_jobs(store: SqlStore) -> None:
    first, second = start(store, "a", "b")
    store.progress([])
    store.progress(
        [
            ProgressUpdate("a", 1, first.token, 1, 10),
            ProgressUpdate("a", 1, first.token, 2, None),
            ProgressUpdate("b", 1, second.token + 1, 5, 10),
            ProgressUpdate("nobody", 1, 1, 5, 10),
        ]
    )
    a, b = store.get("a"), store.get("b")
    assert a is not None
    assert b is not None
    assert (a.done, b.done, b.total) == (2, 0, None)
    store.progress([ProgressUpdate("a", 1, first.token, 3, 12)])
    store.progress([ProgressUpdate("a", 1, first.token, 4, None)])
    a = store.get("a")
    assert a is not None
    assert (a.done, a.total) == (4, 12)
    finish(store, ended(first, Outcome.RETRY))
    store.progress([ProgressUpdate("a", 1, first.token, 9, 12)])
    a = store.get("a")
    assert a is not None
    assert a.done == 4


@pytest.mark.parametrize("again", [True, False])
def test_registering_again_starts_a_new_lease(store: SqlStore, again: bool) -> None:
    register(store, "w1", lease_s=1.0)
    if again:
        register(store, "w1", lease_s=100.0)
    (row,) = store.workers()
    assert ((row.lease_expires_at - store.now()).total_seconds() > 50) is again
