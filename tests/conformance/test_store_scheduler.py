"""Leadership, and what only the leader does."""

from __future__ import annotations

import pytest

from playbill.errors import PolicyConflictError
from playbill.store.sql import SqlStore
from playbill.store.values import ErrorRecord, Outcome, QueuePolicy
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
    new,
    outbox,
    rewind,
    run,
    settle,
    start,
    status,
)

# -- leadership ------------------------------------------------------------------------------------------------------


def test_one_of_two_leads_until_its_lease_ends(store: SqlStore) -> None:
    assert store.lead("scheduler", "one", lease_s=10)
    assert not store.lead("scheduler", "two", lease_s=10)
    assert store.lead("scheduler", "one", lease_s=10)
    rewind(store, "leaders", "expires_at", 11)
    assert store.lead("scheduler", "two", lease_s=10)
    assert not store.lead("scheduler", "one", lease_s=10)


def test_a_leader_that_resigns_is_followed_at_once(store: SqlStore) -> None:
    store.lead("scheduler", "one", lease_s=10)
    store.resign("scheduler", "two")
    assert not store.lead("scheduler", "two", lease_s=10)
    store.resign("scheduler", "one")
    assert store.lead("scheduler", "two", lease_s=10)


def test_leaders_of_different_names_are_independent(store: SqlStore) -> None:
    assert store.lead("scheduler", "one", lease_s=10)
    assert store.lead("statistics", "two", lease_s=10)


@pytest.mark.parametrize("expired", [True, False])
def test_who_does_not_lead_does_nothing(store: SqlStore, expired: bool) -> None:
    if expired:
        lead(store)
        rewind(store, "leaders", "expires_at", 100)
    insert(store, "due", delay_s=60.0)
    rewind(store, "jobs", "due_at", 61)
    insert(store, "boxed")
    rewind(store, "outbox", "publish_at", 60)
    assert store.release_due(limit=9, relay_after_s=5, leader=LEADER) == []
    assert store.take_outbox(limit=9, relay_after_s=5, leader=LEADER) == []
    settle(store, "boxed")
    assert store.missing("mail", excess=9, relay_after_s=5, leader=LEADER) == []
    assert store.to_store(limit=9, leader=LEADER) == 0
    assert store.expire(limit=9, leader=LEADER) == 0
    assert store.purge(limit=9, leader=LEADER) == 0
    assert store.merge_rollups(leader=LEADER) == 0
    assert (status(store, "due"), status(store, "boxed")) == ("scheduled", "pending")


# -- due -------------------------------------------------------------------------------------------------------------


def test_due_jobs_become_pending_oldest_first(store: SqlStore) -> None:
    insert(store, "a", "b", "c", delay_s=60.0)
    for id_, age in (("a", 70), ("b", 80)):
        rewind(store, "jobs", "due_at", age, "id = :id", id=id_)
    leader = lead(store)
    (first,) = store.release_due(limit=1, relay_after_s=5, leader=leader)
    assert (first.id, first.epoch, first.queue, first.message) == ("b", 1, "mail", b"message of b")
    assert [job.id for job in store.release_due(limit=9, relay_after_s=5, leader=leader)] == ["a"]
    assert store.release_due(limit=9, relay_after_s=5, leader=leader) == []
    assert outbox(store) == {"a": 1, "b": 1}
    assert [status(store, id_) for id_ in "abc"] == ["pending", "pending", "scheduled"]
    assert [job.attempt for job in claim(store, "a", "b")] == [1, 1]


def test_a_retry_comes_due_at_its_new_epoch(store: SqlStore) -> None:
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.RETRY, delay_s=30.0, wait_reason="backoff"))
    rewind(store, "jobs", "due_at", 31)
    (due,) = store.release_due(limit=9, relay_after_s=5, leader=lead(store))
    assert due.epoch == 2
    row = store.get("a")
    assert row is not None
    assert (row.status, row.wait_reason) == ("pending", None)


# -- the outbox ------------------------------------------------------------------------------------------------------


def test_the_relay_pushes_back_what_it_returns(store: SqlStore) -> None:
    insert(store, "a", "b", "c")
    rewind(store, "outbox", "publish_at", 60, "job_id = 'a'")
    rewind(store, "outbox", "publish_at", 30, "job_id = 'b'")
    leader = lead(store)
    assert [job.id for job in store.take_outbox(limit=1, relay_after_s=5, leader=leader)] == ["a"]
    assert [job.id for job in store.take_outbox(limit=9, relay_after_s=0, leader=leader)] == ["b"]
    assert [job.id for job in store.take_outbox(limit=9, relay_after_s=5, leader=leader)] == ["b"]


def test_rows_of_jobs_that_no_longer_wait_are_removed(store: SqlStore) -> None:
    start(store, "running")
    (gone,) = start(store, "gone")
    finish(store, ended(gone))
    (again,) = start(store, "again")
    finish(store, ended(again, Outcome.RETRY))
    run(store, "UPDATE {p}outbox SET epoch = 1")
    rewind(store, "outbox", "publish_at", 60)
    assert store.take_outbox(limit=9, relay_after_s=5, leader=lead(store)) == []
    assert outbox(store) == {}


# -- lost messages ---------------------------------------------------------------------------------------------------


def test_the_oldest_missing_messages_are_published_again(store: SqlStore) -> None:
    insert(store, "a", "b", "c", "boxed")
    insert(store, "other", queue="pdf")
    insert(store, "later", delay_s=60.0)
    start(store, "running")
    settle(store, "a", "b", "c", "other", "running")
    rewind(store, "jobs", "run_at", 10, "id = 'b'")
    assert store.awaiting_broker() == {"mail": 3, "pdf": 1}
    leader = lead(store)
    assert [job.id for job in store.missing("mail", excess=2, relay_after_s=5, leader=leader)] == ["b", "a"]
    assert outbox(store) == {"a": 1, "b": 1, "boxed": 1}
    assert store.awaiting_broker() == {"mail": 1, "pdf": 1}
    assert store.missing("mail", excess=0, relay_after_s=5, leader=leader) == []


def test_jobs_meant_for_a_broker_become_claimable_from_the_store(store: SqlStore) -> None:
    insert(store, "a", "b")
    settle(store, "a")
    leader = lead(store)
    assert store.to_store(limit=1, leader=leader) == 1
    assert store.to_store(limit=9, leader=leader) == 1
    assert store.to_store(limit=9, leader=leader) == 0
    assert outbox(store) == {}
    assert {job.id for job in store.claim_next(["mail"], 9, worker="w")} == {"a", "b"}


# -- expiry and retention --------------------------------------------------------------------------------------------


def test_jobs_that_waited_longer_than_maxage_fail(store: SqlStore) -> None:
    leader = lead(store)
    assert store.expire(limit=9, leader=leader) == 0
    store.put_policy("mail", {"maxAge": "10m"}, owner="up")
    insert(store, "old", key="k")
    insert(store, "fresh")
    insert(store, "other", queue="pdf")
    store.insert([new("stored")], handover=IN_STORE)
    store.insert([new("tomorrow", delay_s=86_400.0)], handover=IN_STORE)
    start(store, "running")
    rewind(store, "jobs", "created_at", 3600)
    rewind(store, "jobs", "run_at", 601, "id NOT IN ('fresh', 'tomorrow')")
    assert store.expire(limit=1, leader=leader) == 1
    assert store.expire(limit=9, leader=leader) == 1
    assert store.expire(limit=9, leader=leader) == 0
    row = store.get("old")
    assert row is not None
    assert row.error is not None
    assert (row.status, row.error.type) == ("failed", "Expired")
    assert "10m" in row.error.message
    assert status(store, "stored") == "failed"
    assert {status(store, id_) for id_ in ("fresh", "other")} == {"pending"}
    assert keys(store) == {}


def test_ended_jobs_are_kept_for_their_retention(store: SqlStore) -> None:
    store.put_policy("pdf", {"retention": {"completed": "1h", "failed": "30d"}}, owner="up")
    day = 86_400
    cases = (
        ("fresh", "mail", Outcome.COMPLETED, day / 2, True),
        ("old", "mail", Outcome.COMPLETED, 4 * day, False),
        ("failed", "mail", Outcome.FAILED, 6 * day, True),
        ("long-failed", "mail", Outcome.FAILED, 9 * day, False),
        ("cancelled", "mail", Outcome.CANCELLED, 9 * day, False),
        ("pdf-old", "pdf", Outcome.COMPLETED, 3700, False),
        ("pdf-failed", "pdf", Outcome.FAILED, 29 * day, True),
    )
    for id_, queue, outcome, age, _ in cases:
        (job,) = start(store, id_, queue=queue)
        finish(store, ended(job, outcome, error=ErrorRecord("E", "")))
        rewind(store, "jobs_archive", "finished_at", age, "id = :id", id=id_)
    leader = lead(store)
    assert store.purge(limit=1, leader=leader) == 1
    assert store.purge(limit=99, leader=leader) == 3
    assert store.purge(limit=99, leader=leader) == 0
    kept = {case[0] for case in cases if case[-1]}
    assert {case[0] for case in cases if store.get(case[0]) is not None} == kept


def test_groups_and_rollups_do_not_stay_for_ever(store: SqlStore) -> None:
    store.open_group("old", size=2, ttl_s=60)
    store.open_group("new", size=2, ttl_s=600)
    rewind(store, "job_groups", "expires_at", 120)
    (job,) = start(store, "a")
    finish(store, ended(job))
    run(store, "UPDATE {p}rollups SET minute = minute - 60 * 24 * 31")
    store.purge(limit=9, leader=lead(store))
    assert run(store, "SELECT id FROM {p}job_groups") == [("new",)]
    assert run(store, "SELECT * FROM {p}rollups") == []


def test_rollups_of_past_minutes_are_merged_over_workers(store: SqlStore) -> None:
    leader = lead(store)
    for worker in ("w1", "w2"):
        (job,) = start(store, f"of {worker}", worker=worker)
        finish(store, ended(job, run_ms=10.0))
    assert store.merge_rollups(leader=leader) == 0
    run(store, "UPDATE {p}rollups SET minute = minute - 5")
    assert store.merge_rollups(leader=leader) == 2
    assert store.merge_rollups(leader=leader) == 0
    merged = run(store, "SELECT worker, completed, run_ms, run_ms_squared FROM {p}rollups")
    assert [tuple(row) for row in merged] == [("", 2, 20.0, 200.0)]


# -- policies --------------------------------------------------------------------------------------------------------


def test_a_policy_has_a_version_over_all_queues(store: SqlStore) -> None:
    first = store.put_policy("mail", {"retry": {"maxAttempts": 3}}, owner="up")
    assert first == QueuePolicy("mail", {"retry": {"maxAttempts": 3}}, 1, "up")
    assert store.put_policy("mail", {"retry": {"maxAttempts": 3}}, owner="up").version == 1
    assert store.put_policy("pdf", {}, owner="up").version == 2
    assert store.put_policy("mail", {"retry": {"maxAttempts": 5}}, owner="cli").version == 3
    assert store.policies() == {
        "mail": QueuePolicy("mail", {"retry": {"maxAttempts": 5}}, 3, "cli"),
        "pdf": QueuePolicy("pdf", {}, 2, "up"),
    }


def test_a_policy_of_the_operator_is_nobody_elses_to_change(store: SqlStore) -> None:
    store.put_policy("mail", {}, owner="up")
    store.put_policy("mail", {}, owner="operator")
    with pytest.raises(PolicyConflictError, match="operator"):
        store.put_policy("mail", {"maxAge": "1h"}, owner="up")
    assert store.put_policy("mail", {"maxAge": "2h"}, owner="operator").version == 3


def test_two_schedulers_at_once_hand_each_job_over_once(store: SqlStore) -> None:
    insert(store, *(f"j{number:03}" for number in range(50)), delay_s=60.0, handover=BROKER)
    rewind(store, "jobs", "due_at", 61)
    seen: list[str] = []
    for holder in ("one", "two"):
        if store.lead("scheduler", holder, lease_s=10):
            seen += [job.id for job in store.release_due(limit=100, relay_after_s=5, leader=holder)]
    assert len(seen) == len(set(seen)) == 50
