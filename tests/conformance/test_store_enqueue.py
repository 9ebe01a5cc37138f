"""Jobs come in."""

from __future__ import annotations

from datetime import timedelta

import pytest

from playbill.errors import InvalidInputError
from playbill.policy.states import JobStatus
from playbill.store.sql import SqlStore
from playbill.store.values import ClaimRef, Handover, Inserted, JobFilter, Outcome
from tests.conformance.store_kit import (
    BROKER,
    IN_STORE,
    RELAY,
    claim,
    ended,
    finish,
    insert,
    keys,
    lead,
    new,
    outbox,
    rewind,
    settle,
    start,
    status,
)


def test_a_due_job_is_pending_in_the_outbox_and_to_be_published(store: SqlStore) -> None:
    assert store.insert([new("a", tags=("x",), tenant="acme", priority=8)], handover=BROKER) == [
        Inserted("a", 1, created=True, publish=True)
    ]
    row = store.get("a")
    assert row is not None
    assert (row.status, row.epoch, row.attempt, row.priority, row.tenant) == (JobStatus.PENDING, 1, 0, 8, "acme")
    assert (row.tags, row.message, row.queue, row.actor) == (("x",), b"message of a", "mail", "send")
    assert row.created_at == row.run_at
    assert abs(store.now() - row.created_at) < timedelta(seconds=10)
    assert outbox(store) == {"a": 1}


def test_an_outbox_row_is_relayed_only_after_its_time(store: SqlStore) -> None:
    insert(store, "a")
    leader = lead(store)
    assert store.take_outbox(limit=10, relay_after_s=5, leader=leader) == []
    rewind(store, "outbox", "publish_at", 5)
    assert [job.id for job in store.take_outbox(limit=10, relay_after_s=5, leader=leader)] == ["a"]


def test_what_nobody_publishes_is_relayed_at_once(store: SqlStore) -> None:
    assert not store.insert([new("a")], handover=RELAY)[0].publish
    relayed = store.take_outbox(limit=10, relay_after_s=5, leader=lead(store))
    assert [(job.id, job.epoch, job.queue, job.message) for job in relayed] == [("a", 1, "mail", b"message of a")]
    assert store.take_outbox(limit=10, relay_after_s=5, leader=lead(store)) == []


def test_without_a_broker_a_due_job_waits_in_the_store(store: SqlStore) -> None:
    assert not store.insert([new("a")], handover=IN_STORE)[0].publish
    assert outbox(store) == {}
    assert [job.id for job in store.claim_next(["mail"], 5, worker="w")] == ["a"]


@pytest.mark.parametrize("handover", list(Handover))
def test_a_later_job_is_scheduled(store: SqlStore, handover: Handover) -> None:
    at = store.now() + timedelta(hours=2)
    answers = store.insert([new("a", delay_s=3600.0), new("b", run_at=at)], handover=handover)
    assert [answer.publish for answer in answers] == [False, False]
    first, second = store.get("a"), store.get("b")
    assert first is not None
    assert second is not None
    assert first.status == second.status == JobStatus.SCHEDULED
    assert abs((first.run_at - first.created_at).total_seconds() - 3600) < 0.01
    assert abs((second.run_at - at).total_seconds()) < 0.01
    assert outbox(store) == {}


@pytest.mark.parametrize("count", [1, 3, 501, 1200])
def test_many_jobs_at_once_answer_in_order(store: SqlStore, count: int) -> None:
    jobs = [new(delay_s=60.0 if number % 3 == 2 else 0.0, tags=("t",) if number % 2 else ()) for number in range(count)]
    answers = store.insert(jobs, handover=BROKER)
    assert [answer.id for answer in answers] == [job.id for job in jobs]
    assert [answer.publish for answer in answers] == [job.delay_s == 0 for job in jobs]
    assert store.count(JobFilter(statuses=(JobStatus.PENDING,))) == sum(job.delay_s == 0 for job in jobs)
    assert outbox(store).keys() == {job.id for job in jobs if job.delay_s == 0}
    found = store.get(jobs[-1].id)
    assert found is not None
    assert (found.message, found.tags) == (jobs[-1].message, jobs[-1].tags)


def test_nothing_is_nothing(store: SqlStore) -> None:
    assert store.insert([], handover=BROKER) == []
    store.settle([])
    store.adopt([])
    assert store.count(JobFilter()) == 0


@pytest.mark.parametrize("count", [2, 600])
def test_an_id_that_exists_refuses_the_whole_batch(store: SqlStore, count: int) -> None:
    insert(store, "a")
    batch = [new() for _ in range(count - 1)]
    with pytest.raises(InvalidInputError, match="exists already"):
        store.insert([*batch, new("a")], handover=BROKER)
    with pytest.raises(InvalidInputError, match="exists already"):
        store.insert([*batch, batch[0]], handover=BROKER)
    assert store.count(JobFilter()) == 1
    assert outbox(store).keys() == {"a"}


def test_settled_jobs_are_not_relayed(store: SqlStore) -> None:
    insert(store, "a", "b")
    settle(store, "a", "unknown")
    assert outbox(store) == {"b": 1}


def test_a_late_confirm_of_an_older_epoch_settles_nothing(store: SqlStore) -> None:
    # Given: a job that has run, failed, and is to be published again
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.RETRY), handover=RELAY)
    # When: the confirm of its first message comes only now
    settle(store, "a", epoch=1)
    # Then
    assert outbox(store) == {"a": 2}


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_returns_the_job_that_holds_it(store: SqlStore) -> None:
    insert(store, "a", key="k", tenant="acme")
    answers = store.insert(
        [new("b", key="k", tenant="acme"), new("c", key="k"), new("d"), new("e", key="k")], handover=BROKER
    )
    assert [(answer.id, answer.created, answer.publish) for answer in answers] == [
        ("a", False, False),
        ("c", True, True),
        ("d", True, True),
        ("c", False, False),
    ]
    assert store.get("b") is None


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED])
def test_a_key_is_free_when_its_job_has_ended(store: SqlStore, outcome: Outcome) -> None:
    (job,) = start(store, "a", key="k")
    finish(store, ended(job, outcome))
    assert keys(store) == {}
    assert store.insert([new("b", key="k")], handover=BROKER)[0].created


def test_a_key_is_held_through_retries(store: SqlStore) -> None:
    (job,) = start(store, "a", key="k")
    finish(store, ended(job, Outcome.RETRY, delay_s=10.0))
    answer = store.insert([new("b", key="k")], handover=BROKER)[0]
    assert (answer.id, answer.epoch, answer.created) == ("a", 2, False)


def test_a_key_is_free_when_its_waiting_job_is_cancelled(store: SqlStore) -> None:
    insert(store, "a", key="k")
    store.cancel(["a"])
    assert keys(store) == {}


# -- adoption --------------------------------------------------------------------------------------------------------


def test_an_adopted_job_is_claimable_and_not_in_the_outbox(store: SqlStore) -> None:
    store.adopt([new("a"), new("b")])
    assert outbox(store) == {}
    assert [job.id for job in claim(store, "a", "b")] == ["a", "b"]


def test_adoption_leaves_what_exists_alone(store: SqlStore) -> None:
    (job,) = start(store, "a")
    (gone,) = start(store, "b")
    finish(store, ended(gone))
    store.adopt([new("a", message=b"other"), new("b"), new("c"), new("c")])
    assert status(store, "a") == "processing"
    assert status(store, "b") == "completed"
    assert store.claim([ClaimRef("b", 1)], worker="w").refused["b"] == "terminal"
    assert finish(store, ended(job)) == {"a"}
    assert status(store, "c") == "pending"
