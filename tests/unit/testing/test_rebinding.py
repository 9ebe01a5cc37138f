"""Actors belong to the broker of the test for as long as it lasts, and to their own before and after."""

from __future__ import annotations

from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq import broker as dramatiq_broker
from dramatiq.brokers.stub import StubBroker

import playbill
from playbill.testing import assert_enqueued, inline, manual, stub_broker


@pytest.fixture
def home() -> Iterator[StubBroker]:
    """A broker that is Dramatiq's global one, as a service would have it."""
    before = dramatiq_broker.global_broker
    home = stub_broker()
    dramatiq.set_broker(home)
    yield home
    dramatiq_broker.global_broker = before


def test_actors_of_the_global_broker_are_moved_and_come_back(home: StubBroker) -> None:
    # Given an actor of a module that was imported earlier
    @dramatiq.actor
    def act(number: int) -> int:
        return number + 1

    own = act.fn
    # When a test runs it
    with inline():
        assert playbill.enqueue(act, 1).result == 2
    # Then it is where it was
    assert act.broker is home
    assert act.fn is own
    act.send(1)
    assert home.queues["default"].qsize() == 1


def test_actors_of_another_broker_are_moved_when_they_are_named() -> None:
    other = StubBroker()

    @dramatiq.actor(broker=other)
    def act() -> None: ...

    @dramatiq.actor(broker=other)
    def further() -> None: ...

    with manual(actors=[act]) as harness:
        act.send()
        harness.rebind(further)
        further.send()
        assert_enqueued(count=2)
    assert act.broker is other
    assert further.broker is other


def test_actors_first_imported_inside_a_test_are_there_in_the_next_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a module whose actor is declared while a harness runs
    source = "import dramatiq\n@dramatiq.actor\ndef late_actor():\n    return 'late'\n"
    namespace: dict[str, dramatiq.Actor[[], str]] = {}
    with manual():
        exec(source, namespace)
    # When another harness runs
    with inline():
        # Then the actor is bound to that one
        assert playbill.enqueue(namespace["late_actor"]).result == "late"


def test_actors_defined_in_a_test_die_with_it() -> None:
    for _ in range(2):
        with inline():

            @dramatiq.actor
            def same_name() -> int:
                return 1

            assert playbill.enqueue(same_name).result == 1


def test_a_test_for_the_stub_broker_keeps_working(home: StubBroker) -> None:
    # Given an actor with Playbill's own option, on Dramatiq's StubBroker
    seen: list[tuple[bool, object]] = []

    @dramatiq.actor(sensitive=["code"], throws=(ValueError,))
    def act(code: str) -> None:
        job = playbill.current_job()
        job.progress(1, total=2)
        job.checkpoint(None, 2, cursor="x")
        seen.append((job.detached, job.done))

    # When a worker of Dramatiq runs it
    act.send("1234")
    worker = dramatiq.Worker(home, worker_timeout=100, worker_threads=1)
    worker.start()
    home.join("default", timeout=10_000)
    worker.join()
    worker.stop()
    # Then the job is a detached one
    assert seen == [(True, 2)]


def test_an_unknown_option_is_still_refused(home: StubBroker) -> None:
    with pytest.raises(ValueError, match="sensitiv"):

        @dramatiq.actor(sensitiv=["code"])
        def act() -> None: ...
