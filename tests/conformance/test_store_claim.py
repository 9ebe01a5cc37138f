"""Attempts begin."""

from __future__ import annotations

import pytest

from playbill.errors import StoreUnavailableError
from playbill.store import claims
from playbill.store.sql import SqlStore
from playbill.store.values import ClaimRef, Outcome, Verdict
from tests.conformance.store_kit import (
    IN_STORE,
    claim,
    ended,
    finish,
    insert,
    lead,
    new,
    outbox,
    rewind,
    run,
    start,
    status,
)


def verdict(store: SqlStore, id_: str, epoch: int = 1) -> Verdict:
    answer = store.claim([ClaimRef(id_, epoch)], worker="w2")
    assert not answer.claimed
    return answer.refused[id_]


def test_a_claimed_job_belongs_to_its_worker(store: SqlStore) -> None:
    (job,) = start(store, "a", worker="w1", tenant="acme")
    assert (job.id, job.epoch, job.attempt, job.suspect, job.cursor) == ("a", 1, 1, False, None)
    assert (job.queue, job.actor, job.tenant, job.done, job.total, job.message) == (
        "mail",
        "send",
        "acme",
        0,
        None,
        None,
    )
    assert job.created_at <= job.started_at
    row = store.get("a")
    assert row is not None
    assert (row.status, row.worker, row.attempt, row.started_at) == ("processing", "w1", 1, job.started_at)


def test_each_claim_has_a_token_of_its_own(store: SqlStore) -> None:
    first, second = start(store, "a"), start(store, "b")
    assert first[0].token != second[0].token


def test_every_id_gets_a_verdict(store: SqlStore) -> None:
    start(store, "running")
    (gone,) = start(store, "gone")
    finish(store, ended(gone))
    insert(store, "later", delay_s=60.0)
    (again,) = start(store, "again")
    finish(store, ended(again, Outcome.RETRY))
    insert(store, "free")
    names = ("running", "gone", "later", "again", "free", "nobody")
    answer = store.claim([ClaimRef(name, 1) for name in names], worker="w2")
    assert [job.id for job in answer.claimed] == ["free"]
    assert answer.refused == {
        "running": Verdict.STALE,
        "gone": Verdict.TERMINAL,
        "later": Verdict.NOT_DUE,
        "again": Verdict.STALE,
        "nobody": Verdict.MISSING,
    }


def test_no_refs_no_claim(store: SqlStore) -> None:
    assert store.claim([], worker="w").claimed == ()
    assert store.claim_next([], 5, worker="w") == ()
    assert store.claim_next(["mail"], 0, worker="w") == ()


def test_a_message_of_an_older_epoch_is_stale(store: SqlStore) -> None:
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.RELEASE))
    assert verdict(store, "a", epoch=1) is Verdict.STALE
    assert claim(store, "a", epoch=2)[0].epoch == 2


def test_a_redriven_job_is_claimed_at_its_new_epoch(store: SqlStore) -> None:
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.FAILED))
    assert verdict(store, "a") is Verdict.TERMINAL
    store.redrive(_everything(), limit=10, handover=claims.Handover.BROKER)
    assert verdict(store, "a") is Verdict.STALE
    assert claim(store, "a", epoch=2)[0].attempt == 1


def _everything():
    from playbill.store.values import JobFilter

    return JobFilter()


def test_a_job_that_came_due_in_the_store_may_be_claimed_by_name(store: SqlStore) -> None:
    insert(store, "a", delay_s=60.0)
    rewind(store, "jobs", "due_at", 61)
    assert claim(store, "a")[0].attempt == 1


# -- from the store --------------------------------------------------------------------------------------------------


def test_the_oldest_due_jobs_come_first_over_all_queues(store: SqlStore) -> None:
    for id_, queue, age in (("a", "mail", 10), ("b", "pdf", 30), ("c", "mail", 20), ("d", "other", 99)):
        insert(store, id_, queue=queue, handover=IN_STORE)
        rewind(store, "jobs", "due_at", age, "id = :id", id=id_)
        rewind(store, "jobs", "run_at", age, "id = :id", id=id_)
    taken = store.claim_next(["mail", "pdf", "mail"], 2, worker="w")
    assert [job.id for job in taken] == ["b", "c"]
    assert [job.message for job in taken] == [b"message of b", b"message of c"]
    assert [job.id for job in store.claim_next(["mail", "pdf"], 9, worker="w")] == ["a"]
    assert store.claim_next(["mail", "pdf"], 9, worker="w") == ()


def test_what_is_not_due_or_with_the_broker_is_not_taken_from_the_store(store: SqlStore) -> None:
    insert(store, "broker")
    store.insert([new("later", delay_s=60.0)], handover=IN_STORE)
    assert store.claim_next(["mail"], 9, worker="w") == ()
    rewind(store, "jobs", "due_at", 61, "id = 'later'")
    assert [job.id for job in store.claim_next(["mail"], 9, worker="w")] == ["later"]


def test_a_claimed_job_can_be_finished_and_claimed_again(store: SqlStore) -> None:
    insert(store, "a", handover=IN_STORE)
    (job,) = store.claim_next(["mail"], 1, worker="w")
    assert finish(store, ended(job, Outcome.RETRY), handover=IN_STORE) == {"a"}
    (again,) = store.claim_next(["mail"], 1, worker="w")
    assert (again.epoch, again.attempt) == (2, 2)


# -- a claim whose answer was lost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("from_store", [False, True])
def test_jobs_of_a_claim_whose_answer_was_lost_come_back(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, from_store: bool
) -> None:
    insert(store, "a", handover=IN_STORE if from_store else claims.Handover.BROKER)

    def commit_then_fail(*args: object, original: object, **kw: object) -> object:
        original(*args, **kw)  # type: ignore[operator]
        raise StoreUnavailableError("the connection was lost")

    name = "_next_rows" if from_store else "_claim_rows"
    original = getattr(store._claims, name)
    with monkeypatch.context() as patch:
        patch.setattr(store._claims, name, lambda *args: commit_then_fail(*args, original=original))
        refs = [ClaimRef("a", 1)]
        with pytest.raises(StoreUnavailableError):
            store.claim_next(["mail"], 5, worker="w") if from_store else store.claim(refs, worker="w")
    assert status(store, "a") == "processing"
    store.heartbeat("w", lease_s=15, running=[])
    assert status(store, "a") == "pending"
    if from_store:
        assert [job.attempt for job in store.claim_next(["mail"], 5, worker="w")] == [1]
    else:
        assert outbox(store) == {"a": 2}
        assert [job.id for job in store.take_outbox(limit=9, relay_after_s=5, leader=lead(store))] == ["a"]
        assert claim(store, "a", epoch=2)[0].attempt == 1


# -- unknown actors --------------------------------------------------------------------------------------------------


def defer(store: SqlStore, id_: str, epoch: int = 1, handover=claims.Handover.BROKER, **options: float) -> None:
    values = {"delay_s": 10.0, "fail_after_s": 3600.0, **options}
    store.defer([ClaimRef(id_, epoch)], reason="no worker knows send", handover=handover, **values)


def test_a_deferred_job_waits_with_its_reason_and_burns_no_attempt(store: SqlStore) -> None:
    insert(store, "a")
    defer(store, "a")
    row = store.get("a")
    assert row is not None
    assert (row.status, row.epoch, row.attempt, row.wait_reason) == ("scheduled", 2, 0, "no worker knows send")
    assert abs((row.run_at - store.now()).total_seconds() - 10) < 5


def test_deferral_ends_in_failure_when_it_lasted_too_long_in_all(store: SqlStore) -> None:
    insert(store, "a", key="k")
    defer(store, "a")
    rewind(store, "jobs", "deferred_at", 3000)
    defer(store, "a", epoch=2)
    assert status(store, "a") == "scheduled"
    rewind(store, "jobs", "deferred_at", 601)
    defer(store, "a", epoch=3)
    row = store.get("a")
    assert row is not None
    assert row.error is not None
    assert (row.status, row.error.type, row.error.message) == ("failed", "UnknownActor", "no worker knows send")
    assert run(store, "SELECT * FROM {p}job_keys") == []


def test_defer_leaves_running_jobs_and_other_epochs_alone(store: SqlStore) -> None:
    start(store, "running")
    insert(store, "waiting")
    defer(store, "running")
    defer(store, "waiting", epoch=7)
    defer(store, "unknown")
    assert (status(store, "running"), status(store, "waiting")) == ("processing", "pending")


def test_without_a_broker_a_claimed_job_is_deferred(store: SqlStore) -> None:
    insert(store, "a", handover=IN_STORE)
    store.claim_next(["mail"], 1, worker="w")
    defer(store, "a", handover=IN_STORE)
    row = store.get("a")
    assert row is not None
    assert (row.status, row.attempt) == ("scheduled", 0)
