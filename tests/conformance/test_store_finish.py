"""Attempts end."""

from __future__ import annotations

import pytest

from playbill.store.sql import SqlStore
from playbill.store.values import ErrorRecord, JobFilter, Outcome
from tests.conformance.store_kit import (
    BROKER,
    IN_STORE,
    RELAY,
    claim,
    ended,
    finish,
    insert,
    keys,
    new,
    outbox,
    run,
    start,
    status,
)

ERROR = ErrorRecord("ValueError", "no such transfer", "Traceback ...\nValueError: no such transfer")


def test_a_completed_job_moves_to_the_archive_with_its_result(store: SqlStore) -> None:
    (job,) = start(store, "a", tags=("x",), tenant="acme")
    done = ended(job, result='{"sent": 1}', done=3, total=4, policy_version=7)
    assert finish(store, done) == {"a"}
    row = store.get("a")
    assert row is not None
    assert (row.status, row.result, row.done, row.total, row.epoch, row.attempt) == (
        "completed",
        '{"sent": 1}',
        3,
        4,
        1,
        1,
    )
    assert (row.worker, row.tags, row.tenant, row.message, row.history) == ("w1", ("x",), "acme", b"message of a", ())
    assert row.finished_at is not None
    assert row.started_at is not None
    assert row.finished_at >= row.started_at
    assert run(store, "SELECT count(*) FROM {p}jobs") == [(0,)]


def test_a_failed_job_keeps_its_error_and_its_history(store: SqlStore) -> None:
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.RETRY, error=ERROR))
    (again,) = claim(store, "a", epoch=2, worker="w2")
    finish(store, ended(again, Outcome.FAILED, error=ErrorRecord("KeyError", "gone")))
    row = store.get("a")
    assert row is not None
    assert (row.status, row.error) == ("failed", ErrorRecord("KeyError", "gone", ""))
    first, second = row.history
    assert {name: first[name] for name in ("attempt", "epoch", "worker", "outcome")} == {
        "attempt": 1, "epoch": 1, "worker": "w1", "outcome": "retry",
    }  # fmt: skip
    assert first["error"] == {"type": "ValueError", "message": ERROR.message, "traceback": ERROR.traceback}
    assert (second["attempt"], second["epoch"], second["worker"], second["outcome"]) == (2, 2, "w2", "failed")
    assert second["error"]["type"] == "KeyError"
    assert first["at"] <= second["at"]
    assert first["at"].endswith("Z")


def test_a_completed_job_keeps_the_history_of_its_earlier_attempts(store: SqlStore) -> None:
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.RETRY, error=ERROR))
    finish(store, ended(claim(store, "a", epoch=2)[0]))
    row = store.get("a")
    assert row is not None
    assert [entry["outcome"] for entry in row.history] == ["retry"]
    assert row.error is None


def test_history_and_tracebacks_are_bounded(store: SqlStore) -> None:
    (job,) = start(store, "a")
    long = ErrorRecord("ValueError", "m" * 9000, "t" * 20_000 + "the end")
    for _ in range(23):
        finish(store, ended(job, Outcome.RETRY, error=long))
        (job,) = claim(store, "a", epoch=job.epoch + 1)
    finish(store, ended(job, Outcome.FAILED, error=long))
    row = store.get("a")
    assert row is not None
    assert [entry["attempt"] for entry in row.history] == list(range(5, 25))
    assert {len(entry["error"]["traceback"]) for entry in row.history} == {8192}
    assert row.error is not None
    assert row.error.traceback.endswith("the end")
    assert (len(row.error.traceback), len(row.error.message)) == (8192, 4096)


def test_odd_characters_in_an_error_are_kept_readable(store: SqlStore) -> None:
    (first, second) = start(store, "a", "b")
    odd = ErrorRecord("E", "nul \x00 and half \ud800 :colon %s {} 'quote'", "\x00")
    finish(store, ended(first, Outcome.FAILED, error=odd), ended(second, Outcome.RETRY, error=odd, delay_s=5.0))
    for id_ in ("a", "b"):
        row = store.get(id_)
        assert row is not None
        assert row.error is not None
        assert row.error.message == "nul \\x00 and half \\ud800 :colon %s {} 'quote'"


# -- back to waiting -------------------------------------------------------------------------------------------------


def test_a_retry_waits_in_the_store_for_its_time(store: SqlStore) -> None:
    (job,) = start(store, "a")
    answer = store.finish(
        [ended(job, Outcome.RETRY, delay_s=30.0, error=ERROR, wait_reason="backoff", done=2, total=9)], handover=BROKER
    )
    assert (answer.applied, answer.publish) == ({"a"}, ())
    row = store.get("a")
    assert row is not None
    assert (row.status, row.epoch, row.attempt, row.wait_reason, row.error) == ("retrying", 2, 1, "backoff", ERROR)
    assert (row.worker, row.started_at, row.done, row.total) == (None, None, 2, 9)
    assert abs((row.run_at - store.now()).total_seconds() - 30) < 5


def test_a_retry_at_once_is_to_be_published(store: SqlStore) -> None:
    (job,) = start(store, "a")
    answer = store.finish([ended(job, Outcome.RETRY)], handover=BROKER)
    assert [(each.id, each.epoch, each.message) for each in answer.publish] == [("a", 2, b"message of a")]
    assert outbox(store) == {"a": 2}
    assert claim(store, "a", epoch=2)[0].attempt == 2


@pytest.mark.parametrize("handover", [RELAY, IN_STORE])
def test_what_others_hand_over_is_not_to_be_published(store: SqlStore, handover) -> None:
    (job,) = start(store, "a", handover=RELAY)
    assert store.finish([ended(job, Outcome.RELEASE)], handover=handover).publish == ()
    taken = store.claim_next(["mail"], 1, worker="w2")
    assert len(taken) == (handover is IN_STORE)


def test_a_release_burns_no_attempt_and_keeps_the_suspicion(store: SqlStore) -> None:
    (job,) = start(store, "a")
    run(store, "UPDATE {p}jobs SET suspect = :yes", yes=True)
    finish(store, ended(job, Outcome.RELEASE, wait_reason="drain"))
    row = store.get("a")
    assert row is not None
    assert (row.status, row.epoch, row.attempt, row.history, row.error) == ("pending", 2, 0, (), None)
    (again,) = claim(store, "a", epoch=2)
    assert (again.attempt, again.suspect) == (1, True)
    finish(store, ended(again, Outcome.RETRY))
    assert not claim(store, "a", epoch=3)[0].suspect


# -- the fence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_finish_needs_the_whole_fence(store: SqlStore, outcome: Outcome) -> None:
    from dataclasses import replace

    (job,) = start(store, "a")
    good = ended(job, outcome)
    assert finish(store, replace(good, token=job.token + 1)) == set()
    assert finish(store, replace(good, epoch=2)) == set()
    assert finish(store, replace(good, id="b")) == set()
    assert status(store, "a") == "processing"
    assert finish(store, good) == {"a"}


@pytest.mark.parametrize("second", list(Outcome))
@pytest.mark.parametrize("first", list(Outcome))
def test_a_repeated_finish_counts_as_applied_and_changes_nothing(
    store: SqlStore, first: Outcome, second: Outcome
) -> None:
    """After an ambiguous commit the worker asks again, perhaps with other news: what is stored stays."""
    (job,) = start(store, "a", key="k")
    assert finish(store, ended(job, first, delay_s=60.0, error=ERROR)) == {"a"}
    before = store.get("a")
    assert finish(store, ended(job, second, delay_s=1.0)) == {"a"}
    assert store.get("a") == before


def test_the_fence_of_an_older_attempt_is_lost(store: SqlStore) -> None:
    (job,) = start(store, "a")
    finish(store, ended(job, Outcome.RETRY))
    (again,) = claim(store, "a", epoch=2, worker="w2")
    finish(store, ended(again, Outcome.RETRY))
    assert finish(store, ended(job, Outcome.COMPLETED)) == set()
    assert status(store, "a") == "pending"


def test_a_batch_applies_what_holds_and_reports_the_rest(store: SqlStore) -> None:
    jobs = start(store, "a", "b", "c", "d")
    from dataclasses import replace

    batch = [
        ended(jobs[0]),
        replace(ended(jobs[1]), token=1),
        ended(jobs[2], Outcome.RETRY, delay_s=9.0),
        replace(ended(jobs[3], Outcome.RELEASE), epoch=9),
    ]
    assert finish(store, *batch) == {"a", "c"}
    assert [status(store, id_) for id_ in "abcd"] == ["completed", "processing", "retrying", "processing"]


def test_no_finishes(store: SqlStore) -> None:
    assert store.finish([], handover=BROKER).applied == frozenset()


# -- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.RELEASE, Outcome.CANCELLED])
def test_a_job_that_is_being_cancelled_does_not_run_again(store: SqlStore, outcome: Outcome) -> None:
    (job,) = start(store, "a", key="k")
    store.cancel(["a"])
    answer = store.finish([ended(job, outcome)], handover=BROKER)
    assert (answer.applied, answer.publish) == ({"a"}, ())
    assert status(store, "a") == "cancelled"
    assert keys(store) == {}
    assert finish(store, ended(job, outcome)) == {"a"}


def test_a_job_that_completes_before_it_learns_of_the_cancel_is_completed(store: SqlStore) -> None:
    (job,) = start(store, "a")
    store.cancel(["a"])
    assert finish(store, ended(job)) == {"a"}
    assert status(store, "a") == "completed"


# -- follow-ups and groups -------------------------------------------------------------------------------------------


def test_follow_ups_come_with_the_finish_that_applies(store: SqlStore) -> None:
    from dataclasses import replace

    first, second = start(store, "a", "b")
    good = ended(first, follow_ups=(new("next"), new("later", delay_s=60.0)))
    lost = replace(ended(second, follow_ups=(new("never"),)), token=5)
    answer = store.finish([good, lost], handover=BROKER)
    assert [(job.id, job.epoch, job.message) for job in answer.publish] == [("next", 1, b"message of next")]
    assert outbox(store).keys() == {"a", "b", "next"}
    assert status(store, "later") == "scheduled"
    assert store.get("never") is None
    repeated = store.finish([good], handover=BROKER)
    assert (repeated.applied, repeated.publish) == ({"a"}, ())


def test_a_follow_up_that_exists_already_is_left_alone(store: SqlStore) -> None:
    (running,) = start(store, "next")
    (job,) = start(store, "a")
    assert finish(store, ended(job, follow_ups=(new("next", message=b"other"), new("fresh")))) == {"a"}
    assert status(store, "next") == "processing"
    assert status(store, "fresh") == "pending"
    assert finish(store, ended(running)) == {"next"}


def test_a_follow_up_may_take_the_key_of_the_job_it_follows(store: SqlStore) -> None:
    (job,) = start(store, "a", key="k")
    finish(store, ended(job, follow_ups=(new("b", key="k"),)))
    assert keys(store) == {"k": "b"}


def test_the_last_member_of_a_group_brings_its_callbacks(store: SqlStore) -> None:
    store.open_group("g", size=3, ttl_s=60)
    first, second, third = start(store, "a", "b", "c")
    callback = (new("callback"),)
    options = {"group": "g", "group_callbacks": callback}
    assert store.finish([ended(first, **options)], handover=BROKER).publish == ()
    assert store.finish([ended(first, **options)], handover=BROKER).applied == {"a"}  # repeated: counted once
    assert store.finish([ended(second, Outcome.RETRY, **options)], handover=BROKER).applied == {"b"}
    (second,) = claim(store, "b", epoch=2)
    answer = store.finish([ended(second, **options), ended(third, **options)], handover=BROKER)
    assert [job.id for job in answer.publish] == ["callback"]
    assert run(store, "SELECT count(*) FROM {p}job_groups") == [(0,)]


def test_a_group_nobody_opened_has_no_callbacks(store: SqlStore) -> None:
    (job,) = start(store, "a")
    assert finish(store, ended(job, group="unknown", group_callbacks=(new("callback"),))) == {"a"}
    assert store.get("callback") is None


# -- rollups ---------------------------------------------------------------------------------------------------------


def test_rollups_count_what_applied(store: SqlStore) -> None:
    jobs = start(store, "a", "b", "c", "d", "e")
    batch = [
        ended(jobs[0], run_ms=10.0, wait_ms=1.0),
        ended(jobs[1], run_ms=20.0, wait_ms=2.0),
        ended(jobs[2], Outcome.FAILED, run_ms=30.0, error=ERROR),
        ended(jobs[3], Outcome.RETRY, run_ms=40.0, delay_s=5.0),
        ended(jobs[4], Outcome.RELEASE, run_ms=99.0),
    ]
    finish(store, *batch)
    finish(store, *batch)
    names = "sum(completed), sum(failed), sum(retried), sum(cancelled), sum(run_ms), sum(run_ms_squared), sum(wait_ms)"
    grouped = run(store, f"SELECT queue, actor, worker, {names} FROM {{p}}rollups GROUP BY queue, actor, worker")
    assert [tuple(row) for row in grouped] == [("mail", "send", "w1", 2, 1, 1, 0, 100.0, 3000.0, 3.0)]


def test_everything_is_one_transaction(store: SqlStore) -> None:
    """A follow-up that cannot be inserted takes the finish back with it."""
    (job,) = start(store, "a")
    with pytest.raises(Exception, match=r"."):
        finish(store, ended(job, follow_ups=(new("next", priority=10**9, queue=None),)))
    assert status(store, "a") == "processing"
    assert store.count(JobFilter()) == 1
    assert insert(store, "next")
