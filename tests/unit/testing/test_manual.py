"""Manual mode: jobs wait until the test runs them; and what was enqueued can be asserted."""

from __future__ import annotations

import dramatiq
import pytest

import playbill
from playbill.policy.states import JobStatus
from playbill.testing import Harness, assert_enqueued, manual, refute_enqueued


def test_a_job_waits_until_it_is_told_to_run(playbill_manual: Harness) -> None:
    @dramatiq.actor
    def act() -> int:
        return 1

    job = playbill.enqueue(act)
    assert job.refresh().status is JobStatus.PENDING
    row = playbill_manual.run_next()
    assert row is not None
    assert (row.id, row.status, row.result) == (job.id, JobStatus.COMPLETED, "1")
    assert playbill_manual.run_next() is None


def test_drain_runs_follow_ups_but_not_what_is_not_due(playbill_manual: Harness) -> None:
    @dramatiq.actor
    def child() -> None: ...

    @dramatiq.actor
    def parent() -> None:
        child.send()
        playbill.enqueue(child, delay=60)

    playbill.enqueue(parent)
    assert [row.actor for row in playbill_manual.drain()] == ["parent", "child"]
    assert JobStatus.SCHEDULED in [row.status for row in playbill_manual.jobs()]
    assert [row.actor for row in playbill_manual.drain(ahead=True)] == ["child"]


def test_a_retry_waits_for_its_time(playbill_manual: Harness) -> None:
    @dramatiq.actor(max_retries=1, min_backoff=1000)
    def broken() -> None:
        raise ValueError("no")

    playbill.enqueue(broken)
    assert [row.status for row in playbill_manual.drain()] == [JobStatus.RETRYING]
    assert [row.status for row in playbill_manual.drain(ahead=True)] == [JobStatus.FAILED]


def test_jobs_that_enqueue_each_other_for_ever_are_stopped(
    playbill_manual: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playbill.testing.harness.MAX_DRAIN", 5)

    @dramatiq.actor
    def again() -> None:
        again.send()

    again.send()
    with pytest.raises(RuntimeError, match="enqueue each other"):
        playbill_manual.drain()


def test_a_job_cannot_drain(playbill_manual: Harness) -> None:
    @dramatiq.actor(max_retries=0)
    def greedy() -> None:
        playbill_manual.drain()

    job = playbill.enqueue(greedy)
    playbill_manual.drain()
    with pytest.raises(playbill.JobFailed, match="cannot run other jobs"):
        job.wait(0)


def test_enqueued_jobs_are_found_by_actor_arguments_and_queue(playbill_manual: Harness) -> None:
    @dramatiq.actor(queue_name="mail")
    def send_mail(to: str, copies: tuple[str, ...] = ()) -> None: ...

    playbill.enqueue(send_mail.message("ann", copies=("bob",)))
    playbill.enqueue(send_mail, "cid")
    (row,) = assert_enqueued(send_mail, args=("ann",), kwargs={"copies": ("bob",)}, queue="mail")
    assert row.actor == "send_mail"
    assert_enqueued("send_mail", count=2)
    assert_enqueued(count=2)
    refute_enqueued(send_mail, args=("dan",))
    refute_enqueued(queue="other")
    playbill_manual.drain()
    assert_enqueued(send_mail, args=["cid"])


def test_a_failed_assertion_says_what_was_enqueued(playbill_manual: Harness) -> None:
    @dramatiq.actor(queue_name="mail")
    def send_mail(to: str, **options: int) -> None: ...

    with pytest.raises(AssertionError, match=r"expected at least 1 .*\n  nothing"):
        assert_enqueued(send_mail)
    playbill.enqueue(send_mail.message("ann", size=3))
    with pytest.raises(AssertionError) as failure:
        assert_enqueued(send_mail, args=("bob",))
    assert "actor=send_mail, args=('bob',), found 0" in str(failure.value)
    assert "send_mail('ann', size=3) on mail: pending" in str(failure.value)
    with pytest.raises(AssertionError, match="expected 2 job"):
        assert_enqueued(send_mail, count=2)
    with pytest.raises(AssertionError, match="expected no job"):
        refute_enqueued(send_mail)


@pytest.mark.parametrize("named", [False, True])
def test_a_failed_assertion_shows_no_sensitive_argument(playbill_manual: Harness, named: bool) -> None:
    # Given
    @dramatiq.actor(sensitive=["pin", "token"])
    def pay(to: str, pin: str, *, token: str = "") -> None: ...

    playbill.enqueue(pay.message("ann", "4711", token="hunter22"))
    # When
    with pytest.raises(AssertionError) as failure:
        assert_enqueued("pay" if named else pay, args=("bob", "0815"), kwargs={"token": "s3cret"})
    # Then
    assert "args=('bob', '***'), kwargs={'token': '***'}" in str(failure.value)
    assert "pay('ann', ***, token=***) on default: pending" in str(failure.value)


def test_a_failed_assertion_shows_no_sensitive_argument_of_a_class(playbill_manual: Harness) -> None:
    # Given
    class Pay(dramatiq.GenericActor):
        class Meta:
            sensitive = ("pin",)

        def perform(self, to: str, pin: str) -> None: ...

    # When
    with pytest.raises(AssertionError) as failure:
        assert_enqueued(Pay, args=("bob", "0815"))
    # Then
    assert "args=('bob', '***')" in str(failure.value)


def test_a_second_harness_inside_the_first_is_separate() -> None:
    with manual() as outer:

        @dramatiq.actor
        def act() -> None: ...

        act.send()
        with manual() as inner:
            act.send()
            act.send()
            assert len(inner.jobs()) == 2
        assert len(outer.jobs()) == 1
        assert act.broker is outer.broker
        assert len(outer.drain()) == 1
