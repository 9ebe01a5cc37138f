"""The loop with a clock, a store and a publisher that do as they are told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from playbill.errors import BrokerUnavailableError, StoreError, StoreNotMigratedError, StoreUnavailableError
from playbill.observe.metrics import metrics
from playbill.scheduler.missing import MISSING_S
from playbill.scheduler.service import Scheduler
from playbill.settings import Settings
from playbill.store.values import Handover, Publishable, QueueCounts, Rescued


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def job(number):
    return Publishable(id=f"j{number}", epoch=1, queue="q", message=b"{}")


@dataclass
class ScriptedStore:
    """Answers the calls of the scheduler from lists, notes them, and fails on demand."""

    calls: list = field(default_factory=list)
    due: list = field(default_factory=list)
    outbox: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    awaiting: dict = field(default_factory=dict)
    republished: list = field(default_factory=list)
    failing: dict = field(default_factory=dict)
    leading: bool = True
    during: dict = field(default_factory=dict)

    def _called(self, name, **values):
        self.calls.append((name, values))
        if name in self.during:
            self.during[name]()
        error = self.failing.get(name) or self.failing.get("*")
        if error is not None:
            raise error

    def names(self):
        return [name for name, _ in self.calls]

    def check(self):
        self._called("check")

    def lead(self, name, holder, *, lease_s):
        self._called("lead", holder=holder)
        return self.leading

    def resign(self, name, holder):
        self._called("resign", holder=holder)

    def release_due(self, *, limit, relay_after_s, leader):
        self._called("release_due", leader=leader)
        taken, self.due = self.due, []
        return taken

    def take_outbox(self, *, limit, relay_after_s, leader):
        self._called("take_outbox", leader=leader)
        taken, self.outbox = self.outbox, []
        return taken

    def to_store(self, *, limit, leader):
        self._called("to_store")
        return 0

    def rescue(self, *, poison_limit, limit, handover, relay_after_s, leader):
        self._called("rescue", handover=handover, poison_limit=poison_limit)
        taken, self.lost = self.lost, []
        return taken

    def awaiting_broker(self):
        self._called("awaiting_broker")
        return dict(self.awaiting)

    def workers(self):
        self._called("workers")
        return []

    def missing(self, queue, *, excess, relay_after_s, leader):
        self._called("missing", queue=queue, excess=excess)
        return [job(number) for number in range(excess)]

    def expire(self, *, limit, leader):
        self._called("expire")
        return 0

    def purge(self, *, limit, leader):
        self._called("purge")
        return 0

    def merge_rollups(self, *, leader):
        self._called("merge_rollups")
        return 0

    def queue_counts(self):
        self._called("queue_counts")
        return [QueueCounts(queue="q", pending=3, oldest_waiting_s=1.5)]


@dataclass
class ScriptedPublisher:
    healthy: bool = True
    settled: bool = True
    depth: dict = field(default_factory=dict)
    published: list = field(default_factory=list)
    deaf: bool = False

    def publish(self, messages):
        self.published.extend(message.id for message in messages)

    def flush(self, timeout_s):
        return self.settled

    def depths(self, queues, timeout_s):
        if self.deaf:
            raise BrokerUnavailableError("no answer")
        return {queue: self.depth.get(queue, 0) for queue in queues}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return ScriptedStore()


@pytest.fixture
def publisher():
    return ScriptedPublisher()


@pytest.fixture
def sut(store, publisher, clock):
    return Scheduler(store, Settings(), publisher, monotonic=clock)


def go(sut, clock, seconds, step=0.5):
    for _ in range(int(seconds / step)):
        sut.tick()
        clock.now += step


def test_the_leader_publishes_what_is_due_and_what_was_not_confirmed(sut, store, publisher):
    store.due, store.outbox = [job(1)], [job(2)]

    sut.tick()

    assert publisher.published == ["j1", "j2"]


def test_who_does_not_lead_only_campaigns(sut, store, publisher, clock):
    store.leading, store.due = False, [job(1)]

    go(sut, clock, 30)

    assert set(store.names()) == {"lead"}
    assert not sut.leads
    assert publisher.published == []


def test_a_due_job_is_looked_for_at_least_every_quarter_of_a_second(sut, clock):
    sut.tick()
    assert sut.tick() <= 0.25


def test_the_lease_is_renewed_four_times_in_its_life(sut, store, clock):
    go(sut, clock, 100, step=0.25)

    assert 38 <= store.names().count("lead") <= 42


def test_jobs_taken_while_the_lead_was_lost_are_not_published(sut, store, publisher, clock):
    sut.tick()
    store.outbox = [job(1)]
    clock.now += 1.0
    store.during["take_outbox"] = lambda: setattr(clock, "now", clock.now + 11.0)

    sut.tick()

    assert publisher.published == []


def test_a_frozen_leader_does_nothing_until_it_is_elected_again(sut, store, publisher, clock):
    sut.tick()
    store.leading, store.due = False, [job(1)]
    store.calls.clear()
    clock.now += 60.0

    sut.tick()

    assert store.names() == ["lead"]
    assert publisher.published == []


def test_nothing_is_taken_for_an_unhealthy_publisher(sut, store, publisher, clock):
    publisher.healthy = False

    go(sut, clock, 10)

    assert not {"release_due", "take_outbox"} & set(store.names())


def test_nothing_is_taken_while_confirms_are_owed_but_not_for_ever(sut, store, publisher, clock):
    publisher.settled = False

    go(sut, clock, 4)
    assert "release_due" not in store.names()
    go(sut, clock, 4)
    assert "release_due" in store.names()


def test_there_is_no_rescue_before_a_full_lease_of_contact(sut, store, clock):
    go(sut, clock, 14.5)
    assert "rescue" not in store.names()
    go(sut, clock, 2)
    assert "rescue" in store.names()


def test_a_store_outage_starts_the_wait_before_a_rescue_again(sut, store, clock):
    go(sut, clock, 20)
    store.failing["*"] = StoreUnavailableError("down")
    go(sut, clock, 30)
    store.failing.clear()
    store.calls.clear()

    go(sut, clock, 14.5)
    assert "rescue" not in store.names()
    go(sut, clock, 3)
    assert "rescue" in store.names()


def test_a_freeze_starts_the_wait_before_a_rescue_again(sut, store, clock):
    go(sut, clock, 20)
    clock.now += 11.0
    store.calls.clear()

    go(sut, clock, 14.5)
    assert "rescue" not in store.names()


def test_a_standby_keeps_contact_so_that_it_may_rescue_as_soon_as_it_leads(sut, store, clock):
    store.leading = False
    go(sut, clock, 30)
    store.leading = True
    store.calls.clear()

    go(sut, clock, 3)

    assert "rescue" in store.names()


def test_rescued_jobs_are_published_or_left_to_the_relay(sut, store, publisher, clock):
    go(sut, clock, 20)
    store.lost = [Rescued("j1", "q", "w", False, job(1)), Rescued("j2", "q", "w", True, None)]
    go(sut, clock, 2)
    assert publisher.published == ["j1"]
    publisher.healthy = False
    store.calls.clear()
    go(sut, clock, 2)
    assert next(values["handover"] for name, values in store.calls if name == "rescue") is Handover.RELAY


def test_without_a_broker_stragglers_go_to_the_store(store, clock):
    sut = Scheduler(store, Settings(), None, monotonic=clock)

    go(sut, clock, 20)

    assert "to_store" in store.names()
    assert not {"release_due", "take_outbox", "awaiting_broker"} & set(store.names())
    assert {values["handover"] for name, values in store.calls if name == "rescue"} == {Handover.STORE}


def test_missing_messages_are_published_again_at_the_second_tick(sut, store, publisher, clock):
    store.awaiting, publisher.depth = {"q": 3}, {"q": 1}

    go(sut, clock, MISSING_S)
    assert publisher.published == []
    go(sut, clock, MISSING_S)
    assert publisher.published == ["j0", "j1"]


def test_an_unanswered_question_of_depth_forgets_what_was_missing(sut, store, publisher, clock):
    store.awaiting = {"q": 3}
    go(sut, clock, MISSING_S)
    publisher.deaf = True
    go(sut, clock, MISSING_S)
    publisher.deaf = False
    go(sut, clock, MISSING_S)
    assert publisher.published == []


@pytest.mark.parametrize("error", [StoreError("deadlock"), ValueError("a bug")])
def test_a_failing_task_is_counted_and_stops_no_other(sut, store, clock, error):
    counter = metrics().task_errors.labels("release")
    before = counter._value.get()
    store.failing["release_due"] = error

    go(sut, clock, 20)

    assert counter._value.get() - before >= 2
    assert {"take_outbox", "expire", "purge", "rescue", "queue_counts", "merge_rollups"} <= set(store.names())


def test_a_refused_campaign_is_survived(sut, store, clock):
    sut.tick()
    store.failing["lead"] = StoreError("lock timeout")
    go(sut, clock, 5)
    assert sut.leads
    go(sut, clock, 10)
    assert not sut.leads
    store.failing.clear()
    go(sut, clock, 5)
    assert sut.leads


def test_a_store_that_is_away_is_asked_with_growing_pauses(sut, store, clock):
    store.failing["*"] = StoreUnavailableError("down")

    pauses = []
    for _ in range(8):
        pauses.append(sut.tick())
        clock.now += pauses[-1]

    assert pauses[0] <= 0.1
    assert 1.0 <= pauses[-1] <= 2.0


def test_figures_are_shown_by_the_leader_and_taken_back_after(sut, store, clock):
    sut.tick()
    assert metrics().queue_jobs.labels("q", "pending")._value.get() == 3
    assert metrics().leader._value.get() == 1
    store.leading = False
    go(sut, clock, 5)
    assert metrics().leader._value.get() == 0
    assert "q" not in {sample.labels.get("queue") for sample in metrics().queue_jobs.collect()[0].samples}


def test_health_is_a_loop_that_turns(sut, clock):
    assert sut.health() is not None
    sut.tick()
    assert sut.health() is None
    clock.now += 31.0
    assert "31 s" in sut.health()


def test_stopping_gives_the_lead_up(store, publisher):
    sut = Scheduler(store, Settings(), publisher)
    stop = threading.Event()
    store.during["release_due"] = stop.set

    sut.run(stop)

    assert store.names()[-1] == "resign"


def test_a_store_that_is_away_at_the_start_is_waited_for(store, publisher):
    sut = Scheduler(store, Settings(), publisher)
    stop = threading.Event()
    store.failing["check"] = StoreUnavailableError("down")
    store.during["check"] = lambda: store.names().count("check") == 3 and store.failing.clear()
    store.during["release_due"] = stop.set

    sut.run(stop)

    assert store.names()[:4] == ["check", "check", "check", "lead"]


def test_a_store_without_tables_is_an_error(store, publisher):
    store.failing["check"] = StoreNotMigratedError("run playbill migrate")
    with pytest.raises(StoreNotMigratedError):
        Scheduler(store, Settings(), publisher).run(threading.Event())


def test_work_without_the_store_is_no_contact_with_it(sut, store, publisher, clock):
    publisher.healthy = False
    sut.tick()
    store.failing["*"] = StoreUnavailableError("down")
    go(sut, clock, 9)
    store.failing.clear()
    store.calls.clear()

    go(sut, clock, 14.5)

    assert "rescue" not in store.names()


def test_a_slow_task_does_not_cost_the_lead(sut, store, clock):
    for name in ("release_due", "take_outbox", "expire", "queue_counts", "merge_rollups", "purge"):
        store.during[name] = lambda: setattr(clock, "now", clock.now + 4.0)

    for _ in range(3):
        sut.tick()
        clock.now += 1.0
        assert sut.leads
    assert {"expire", "queue_counts", "merge_rollups", "purge"} <= set(store.names())
