"""Cancel, redrive, parked messages; and what people see."""

from __future__ import annotations

from datetime import timedelta

import pytest

from playbill.policy.states import JobStatus
from playbill.store.sql import SqlStore
from playbill.store.values import CancelAnswer, ErrorRecord, JobFilter, Outcome, ParkedMessage, QueueCounts
from tests.conformance.store_kit import (
    BROKER,
    IN_STORE,
    claim,
    ended,
    finish,
    insert,
    keys,
    new,
    outbox,
    rewind,
    start,
    status,
)


def fail(store: SqlStore, *ids: str, error: str = "ValueError", **options: object) -> None:
    for job in start(store, *ids, **options):
        finish(store, ended(job, Outcome.FAILED, error=ErrorRecord(error, "text")))


# -- cancel ----------------------------------------------------------------------------------------------------------


def test_cancel_answers_for_each_job(store: SqlStore) -> None:
    insert(store, "pending", key="k")
    insert(store, "scheduled", delay_s=60.0)
    (again,) = start(store, "retrying")
    finish(store, ended(again, Outcome.RETRY, delay_s=60.0))
    start(store, "running")
    (done,) = start(store, "done")
    finish(store, ended(done))
    answers = store.cancel(["pending", "scheduled", "retrying", "running", "done", "nobody"])
    assert answers == {
        "pending": CancelAnswer.CANCELLED,
        "scheduled": CancelAnswer.CANCELLED,
        "retrying": CancelAnswer.CANCELLED,
        "running": CancelAnswer.CANCELLING,
        "done": CancelAnswer.TERMINAL,
        "nobody": CancelAnswer.MISSING,
    }
    assert keys(store) == {}
    row = store.get("pending")
    assert row is not None
    assert (row.status, row.epoch, row.finished_at is not None) == ("cancelled", 2, True)
    assert row.history[-1]["outcome"] == "cancelled"
    running = store.get("running")
    assert running is not None
    assert (running.status, running.cancelling) == ("processing", True)
    assert store.cancel(["running", "pending"]) == {
        "running": CancelAnswer.CANCELLING,
        "pending": CancelAnswer.TERMINAL,
    }
    assert store.cancel([]) == {}


# -- redrive ---------------------------------------------------------------------------------------------------------


def test_a_redriven_job_is_pending_again_with_its_history(store: SqlStore) -> None:
    fail(store, "a", tags=("x",), tenant="acme", priority=9)
    before = store.get("a")
    assert before is not None
    answer = store.redrive(JobFilter(), limit=10, handover=BROKER)
    assert (answer.matched, answer.redriven, answer.skipped) == (1, 1, 0)
    assert [(job.id, job.epoch, job.message) for job in answer.publish] == [("a", 2, b"message of a")]
    row = store.get("a")
    assert row is not None
    assert (row.status, row.epoch, row.attempt, row.error) == ("pending", 2, 0, None)
    assert (row.history, row.tags, row.tenant, row.priority) == (before.history, ("x",), "acme", 9)
    assert row.created_at == before.created_at
    assert (row.finished_at, row.worker) == (None, None)
    assert outbox(store)["a"] == 2
    assert store.count(JobFilter()) == 1
    finish(store, ended(claim(store, "a", epoch=2)[0]))
    assert status(store, "a") == "completed"


def test_redrive_takes_the_oldest_that_match_and_never_completed_ones(store: SqlStore) -> None:
    for id_ in ("a", "b", "c"):
        fail(store, id_)
    (done,) = start(store, "done")
    finish(store, ended(done))
    insert(store, "x")
    store.cancel(["x"])
    fail(store, "other", error="KeyError")
    for age, id_ in enumerate(("a", "c", "b")):
        rewind(store, "jobs_archive", "created_at", 100 - age, "id = :id", id=id_)
    only = JobFilter(error_type="ValueError")
    assert store.redrive(only, limit=2, handover=BROKER, dry_run=True).matched == 3
    answer = store.redrive(only, limit=2, handover=BROKER)
    assert (answer.matched, answer.redriven) == (3, 2)
    assert sorted(job.id for job in answer.publish) == ["a", "c"]
    everything = store.redrive(
        JobFilter(statuses=(JobStatus.COMPLETED, JobStatus.CANCELLED)), limit=9, handover=IN_STORE
    )
    assert (everything.matched, everything.redriven, everything.publish) == (1, 1, ())
    assert [job.id for job in store.claim_next(["mail"], 9, worker="w")] == ["x"]
    assert status(store, "done") == "completed"
    assert status(store, "other") == "failed"


def test_a_dry_run_changes_nothing(store: SqlStore) -> None:
    fail(store, "a")
    assert store.redrive(JobFilter(ids=("a",)), limit=1, handover=BROKER, dry_run=True).redriven == 0
    assert status(store, "a") == "failed"


def test_redrive_takes_the_key_again_or_skips(store: SqlStore) -> None:
    fail(store, "a", key="k1")
    fail(store, "b", key="k2")
    fail(store, "c", key="k2")
    insert(store, "d", key="k1")
    answer = store.redrive(JobFilter(), limit=9, handover=BROKER)
    assert (answer.matched, answer.redriven, answer.skipped) == (3, 1, 2)
    assert keys(store)["k1"] == "d"
    assert keys(store)["k2"] in ("b", "c")
    assert status(store, "a") == "failed"


# -- parked ----------------------------------------------------------------------------------------------------------


def test_parked_messages_are_kept_until_they_are_taken(store: SqlStore) -> None:
    store.park([])
    store.park([ParkedMessage("m1", "mail", b"\x00\xff", "not JSON", {"x-death": [1]})])
    rewind(store, "parked_messages", "parked_at", 10)
    store.park([ParkedMessage("m2", "pdf", b"{}", "unknown"), ParkedMessage("m1", "mail", b"twice", "again")])
    newest = store.parked()
    assert [(each.id, each.queue, each.body, each.reason) for each in newest] == [
        ("m2", "pdf", b"{}", "unknown"),
        ("m1", "mail", b"\x00\xff", "not JSON"),
    ]
    assert newest[1].headers == {"x-death": [1]}
    assert newest[1].parked_at is not None
    assert [each.id for each in store.parked(limit=1)] == ["m2"]
    assert [each.body for each in store.unpark(["m1", "nobody"])] == [b"\x00\xff"]
    assert [each.id for each in store.parked()] == ["m2"]
    assert store.unpark([]) == []


# -- reads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def various(store: SqlStore) -> SqlStore:
    insert(store, "a", tags=("red", "big"), tenant="acme", key="k")
    insert(store, "b", queue="pdf", actor="render", delay_s=60.0, tags=("red",))
    start(store, "c")
    fail(store, "d", tags=("blue",), tenant="acme", error="KeyError")
    (done,) = start(store, "e", queue="pdf")
    finish(store, ended(done))
    for age, id_ in enumerate("edcba"):
        for table in ("jobs", "jobs_archive"):
            rewind(store, table, "created_at", age * 10, "id = :id", id=id_)
    return store


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "edcba"),
        ({"ids": ("a", "e", "zzz")}, "ea"),
        ({"ids": ()}, ""),
        ({"ids": ("a", "e"), "queue": "pdf"}, "e"),
        ({"queue": "pdf"}, "eb"),
        ({"actor": "render"}, "b"),
        ({"statuses": (JobStatus.PENDING, JobStatus.COMPLETED)}, "ea"),
        ({"statuses": ()}, ""),
        ({"tenant": "acme"}, "da"),
        ({"tenant": ""}, "ecb"),
        ({"tag": "red"}, "ba"),
        ({"tag": "re"}, ""),
        ({"tag": 'quo"te'}, ""),
        ({"key": "k"}, "a"),
        ({"error_type": "KeyError"}, "d"),
        ({"tenant": "acme", "tag": "blue", "statuses": (JobStatus.FAILED,)}, "d"),
    ],
)
def test_jobs_are_found_newest_first_live_and_archived(various: SqlStore, where: dict, expected: str) -> None:
    assert "".join(row.id for row in various.find(JobFilter(**where))) == expected
    assert various.count(JobFilter(**where)) == len(expected)


def test_the_limit_counts_over_live_and_archived(various: SqlStore) -> None:
    assert [row.id for row in various.find(JobFilter(), limit=2)] == ["e", "d"]
    assert [row.id for row in various.find(JobFilter(), limit=4)] == ["e", "d", "c", "b"]


def test_times_are_inclusive_at_the_start(various: SqlStore) -> None:
    row = various.get("c")
    assert row is not None
    assert [each.id for each in various.find(JobFilter(created_after=row.created_at))] == ["e", "d", "c"]
    assert [each.id for each in various.find(JobFilter(created_before=row.created_at))] == ["b", "a"]
    later = row.created_at + timedelta(seconds=1)
    assert [each.id for each in various.find(JobFilter(created_before=later))] == ["c", "b", "a"]


def test_nobody_knows_an_unknown_job(store: SqlStore) -> None:
    assert store.get("nobody") is None


def test_counts_of_queues(various: SqlStore) -> None:
    various.put_policy("quiet", {}, owner="up")
    rewind(various, "jobs", "run_at", 90, "id = 'a'")
    counts = {each.queue: each for each in various.queue_counts()}
    assert list(counts) == ["mail", "pdf", "quiet"]
    mail = counts["mail"]
    assert (mail.pending, mail.processing, mail.failed, mail.scheduled, mail.completed) == (1, 1, 1, 0, 0)
    assert mail.oldest_waiting_s is not None
    assert 90 <= mail.oldest_waiting_s < 120
    assert counts["pdf"] == QueueCounts("pdf", scheduled=1, completed=1)
    assert counts["quiet"] == QueueCounts("quiet")


def test_a_due_job_in_the_store_counts_as_waiting(store: SqlStore) -> None:
    store.insert([new("a", delay_s=60.0)], handover=IN_STORE)
    assert store.queue_counts()[0].oldest_waiting_s is None
    rewind(store, "jobs", "run_at", 70)
    rewind(store, "jobs", "due_at", 70)
    oldest = store.queue_counts()[0].oldest_waiting_s
    assert oldest is not None
    assert 10 <= oldest < 40
