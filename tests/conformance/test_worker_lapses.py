"""What goes wrong inside a worker: each accepted job still ends, or goes back, and the worker works on."""

from __future__ import annotations

import threading
import uuid
from types import MethodType

import dramatiq
import pytest
import sqlalchemy as sa

import playbill
from playbill.errors import JobFailed, StoreError, StoreUnavailableError
from playbill.policy.states import JobStatus
from playbill.store.values import JobFilter
from tests.support.transports import App
from tests.support.waiting import eventually


def fails_once(monkeypatch, target, name, error):
    """The next call of a method does its work, or nothing, and raises; returns the event that it has."""
    failed = threading.Event()
    original = getattr(target, name)

    def failing(*args, **kwargs):
        if not failed.is_set():
            failed.set()
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, failing)
    return failed


def test_a_worker_that_lost_its_lease_goes_on_as_another_one(app: App):
    # Given: a busy worker with work claimed ahead of it
    release, started = threading.Event(), threading.Event()

    @app.actor(max_retries=0)
    def hold(number: int) -> int:
        started.set()
        assert release.wait(30)
        return number

    session = app.work(threads=1)
    app.schedule()
    jobs = [playbill.enqueue(hold, number) for number in range(5)]
    assert started.wait(10)
    before = session.worker_id
    # When: the scheduler takes it for dead
    workers = app.store.database.tables.workers
    with app.store.database.write() as connection:
        connection.execute(sa.update(workers).values(state="lost"))
    eventually(lambda: session.worker_id != before, what="a new worker")
    release.set()
    # Then
    assert [job.wait(30) for job in jobs] == [0, 1, 2, 3, 4]
    assert [worker.id for worker in app.store.workers()] == [session.worker_id]
    assert {app.row(job.id).attempt for job in jobs} == {1}


def test_nothing_starts_under_a_lease_that_may_have_ended(app: App, monkeypatch):
    # Given: a worker that cannot reach the store for a whole lease, with jobs claimed ahead
    release, runs = threading.Event(), []

    @app.actor
    def hold(number: int) -> None:
        runs.append(number)
        assert release.wait(30)

    session = app.work(threads=1)
    session.slots._mean_s = 0.001  # fast jobs so far, so it claims ahead
    jobs = [playbill.enqueue(hold, number) for number in range(3)]
    eventually(lambda: session.slots.claimed == 3, what="jobs claimed ahead")
    monkeypatch.setattr(type(session), "unhoard", lambda _self: None)
    # When: the clock says so before any heartbeat does
    with monkeypatch.context() as frozen:
        frozen.setattr(type(session.heartbeat), "lease_holds", property(lambda _self: False))
        release.set()
        eventually(lambda: session.slots.claimed == 0, what="everything given back")
        assert runs == [0]
    # Then: they run later, and no attempt was burnt
    assert [job.wait(30) for job in jobs] == [None] * 3
    assert {app.row(job.id).attempt for job in jobs} == {1}


@pytest.mark.parametrize("name", ["refused", "nested", "mute"])
def test_an_end_that_cannot_be_judged_is_a_failure_and_never_a_success(app: App, name: str):
    # Given: actors whose end makes trouble
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def nested() -> list[object]:
        result: list[object] = []
        for _ in range(100_000):
            result = [result]
        return result

    def mute() -> None:
        raise MuteError

    def refused() -> None:
        raise ValueError("as asked")

    def retry_when(_retries: int, _error: BaseException) -> bool:
        raise RuntimeError("a broken predicate")

    actors = {
        "nested": app.actor(nested),
        "mute": app.actor(mute, max_retries=0),
        "refused": app.actor(refused, retry_when=retry_when),
    }
    app.work()
    # When
    job = playbill.enqueue(actors[name])
    # Then
    with pytest.raises(JobFailed) as failed:
        job.wait(30)
    assert failed.value.error_type == {
        "nested": "ResultNotSerializable", "mute": "MuteError", "refused": "VerdictError"
    }[name]  # fmt: skip


def test_odd_options_of_a_message_fail_it_or_run_it_and_stop_nobody(app: App):
    # Given
    @app.actor
    def noop() -> int:
        return 1

    odd = [{"sensitive": True}, {"eta": 4_000_000_000_000}, {"traceparent": 5}, {"max_retries": []}]
    messages = [noop.message().copy(options=options) for options in odd]
    for message in messages:  # as an older or foreign producer may have stored them
        job = app.broker.build(noop.message(), playbill.client.EnqueueOptions())
        job.id, job.message = message.message_id, message.encode()
        app.broker.commit([job])
    session = app.work(threads=1)
    # When
    rows = [app.ends(message.message_id) for message in messages]
    # Then
    assert {row.status for row in rows} <= {JobStatus.COMPLETED, JobStatus.FAILED}
    assert all(row.error is not None for row in rows if row.status is JobStatus.FAILED)
    assert playbill.enqueue(noop).wait(30) == 1
    assert session.sick() is None
    eventually(session.slots.idle, what="no slot lost")


def test_an_end_that_the_store_refuses_fails_that_job_and_no_other(app: App, monkeypatch):
    # Given: a store whose driver chokes on one end
    @app.actor(max_retries=0)
    def noop(number: int) -> int:
        return number

    original = app.store.finish

    def choking(_self, finishes, **options):
        if any(item.result == "3" for item in finishes):
            raise OverflowError("no place for this")
        return original(finishes, **options)

    monkeypatch.setattr(app.store, "finish", MethodType(choking, app.store))
    session = app.work(threads=2)
    # When
    jobs = playbill.enqueue_many([noop.message(number) for number in range(6)])
    # Then
    rows = [app.ends(job.id) for job in jobs]
    assert [row.status.value for row in rows] == ["completed"] * 3 + ["failed"] + ["completed"] * 2
    assert rows[3].error is not None
    assert rows[3].error.type == "FinishRefused"
    assert session.finisher.alive


def test_a_claim_whose_verdicts_cannot_be_read_is_taken_back(rabbit_app: App, monkeypatch):
    # Given: a message of an ended job beside one of a live job
    @rabbit_app.actor
    def noop() -> int:
        return 1

    failed = fails_once(monkeypatch, rabbit_app.store._claims, "_verdicts", StoreUnavailableError("away"))
    ended = playbill.enqueue(noop)
    ended.cancel()
    job = playbill.enqueue(noop)
    # When
    rabbit_app.work(threads=1)
    # Then
    assert job.wait(30) == 1
    assert failed.is_set()


def test_garbage_that_comes_while_the_store_is_away_is_parked_later(rabbit_app: App, monkeypatch):
    # Given
    @rabbit_app.actor
    def noop() -> int:
        return 1

    playbill.enqueue(noop)
    failed = fails_once(monkeypatch, rabbit_app.store, "park", StoreUnavailableError("away"))
    publish_raw(rabbit_app, b"no message at all")
    job = playbill.enqueue(noop)
    # When
    rabbit_app.work(threads=1)
    # Then
    assert job.wait(30) == 1
    eventually(lambda: len(rabbit_app.store.parked()) == 1, what="one parked message")
    assert failed.is_set()


def test_a_message_that_the_store_refuses_for_good_is_parked_and_the_rest_runs(rabbit_app: App, monkeypatch):
    # Given: a store that can never take one of the ids
    @rabbit_app.actor
    def noop() -> int:
        return 1

    jobs = [playbill.enqueue(noop) for _ in range(4)]
    poison = jobs[1].id
    original = rabbit_app.store.claim

    def refusing(_self, refs, **options):
        if any(ref.id == poison for ref in refs):
            raise StoreError("invalid byte sequence")
        return original(refs, **options)

    monkeypatch.setattr(rabbit_app.store, "claim", MethodType(refusing, rabbit_app.store))
    # When
    rabbit_app.work(threads=4)
    # Then
    assert [job.wait(30) for job in jobs if job.id != poison] == [1, 1, 1]
    (parked,) = eventually(lambda: rabbit_app.store.parked()[:1], what="a parked message")
    assert "invalid byte sequence" in parked.reason


def test_jobs_of_unknown_actors_are_put_back_though_the_store_was_away(app: App, monkeypatch):
    # Given: a job that nobody here knows, beside one that runs
    @app.actor
    def noop() -> int:
        return 1

    message = noop.message().copy(actor_name="stranger")
    job = app.broker.build(noop.message(), playbill.client.EnqueueOptions())
    job.id, job.actor, job.message = message.message_id, "stranger", message.encode()
    app.broker.commit([job])
    failed = fails_once(monkeypatch, app.store, "defer", StoreUnavailableError("away"))
    known = playbill.enqueue(noop)
    # When
    session = app.work(threads=1)
    # Then
    assert known.wait(30) == 1
    eventually(lambda: app.row(job.id).wait_reason == "no worker knows actor stranger", what="its reason")
    assert failed.is_set()
    eventually(session.slots.idle, what="no slot lost")


def test_a_message_that_names_another_queue_runs_where_it_arrived(rabbit_app: App):
    # Given
    @rabbit_app.actor
    def noop() -> int:
        return 1

    job = rabbit_app.broker.build(noop.message(), playbill.client.EnqueueOptions())
    job.message = dramatiq.Message.decode(job.message).copy(queue_name="elsewhere").encode()
    rabbit_app.broker.commit([job])
    # When
    session = rabbit_app.work()
    # Then
    assert rabbit_app.ends(job.id).status is JobStatus.COMPLETED
    assert session.sick() is None


def publish_raw(app: App, body: bytes) -> None:
    """A body that no producer of ours would publish."""
    import pika

    settings = app.runtime.settings
    assert settings.broker_url is not None
    with pika.BlockingConnection(pika.URLParameters(settings.broker_url.get_secret_value())) as connection:
        channel = connection.channel()
        eventually(lambda: app.store.find(JobFilter(queue=app.queue), limit=1), what="the queue's first job")
        properties = pika.BasicProperties(delivery_mode=2, message_id=uuid.uuid4().hex)
        eventually(lambda: published(channel, app.queue, body, properties), what="a queue to publish to")


def published(channel, queue: str, body: bytes, properties) -> bool:
    """Whether it went to a queue."""
    import pika.exceptions

    try:
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, properties, mandatory=True)
    except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
        return False
    return True
