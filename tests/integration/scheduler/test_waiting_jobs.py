"""Jobs that wait: due ones are handed over, unconfirmed ones are published, lost ones are found."""

from __future__ import annotations

import time

import pytest

from playbill.policy.states import JobStatus
from playbill.scheduler import missing
from playbill.settings import Settings
from playbill.store.migrate import migrate
from playbill.store.values import ClaimRef, Handover, QueuePolicy
from tests.integration.scheduler.work import bodies, new_job, worker_info
from tests.support.waiting import eventually


@pytest.fixture
def store(store_url, open_):
    migrate(Settings(store_url=store_url))
    return open_(store_url)


def depth(channel, queue):
    return channel.queue_declare(queue, durable=True, passive=True).method.message_count


def exists(channel, queue):
    """The publisher makes the queue; a passive question about a missing one would close the channel."""
    connection = channel.connection
    probe = connection.channel()
    try:
        probe.queue_declare(queue, passive=True)
    except Exception:  # noqa: BLE001 - not found
        return False
    probe.close()
    return True


@pytest.mark.rabbitmq
def test_a_due_job_is_published_within_half_a_second(store, queue, rabbit, publish_for, start):
    publisher = publish_for(store)
    scheduler = start(store, publisher)
    eventually(lambda: scheduler.leads)
    store.insert([new_job(queue, "first", delay_s=0.1)], handover=Handover.BROKER)
    eventually(lambda: exists(rabbit, queue))  # made by the first message
    eventually(lambda: depth(rabbit, queue) == 1)
    assert bodies(rabbit, queue) == [("first", store.get("first").epoch)]
    assert store.get("first").status is JobStatus.PENDING

    late_s = []
    for number in range(5):
        store.insert([new_job(queue, f"j{number}", delay_s=0.3)], handover=Handover.BROKER)
        began = time.monotonic()
        eventually(lambda: depth(rabbit, queue) == 1)
        late_s.append(time.monotonic() - began - 0.3)
        bodies(rabbit, queue)
    assert sorted(late_s)[2] < 0.5


@pytest.mark.rabbitmq
def test_a_job_that_nobody_publishes_is_relayed_once(store, queue, rabbit, publish_for, start):
    start(store, publish_for(store))
    store.insert([new_job(queue, f"j{number}") for number in range(50)], handover=Handover.RELAY)

    eventually(lambda: exists(rabbit, queue) and depth(rabbit, queue) == 50, deadline_s=20)
    eventually(lambda: store.awaiting_broker().get(queue) == 50, what="confirms settle the outbox")

    assert sorted(body for body, _ in bodies(rabbit, queue)) == sorted(f"j{number}" for number in range(50))


@pytest.mark.rabbitmq
def test_a_publish_that_was_never_confirmed_is_repeated(store, queue, rabbit, publish_for, start):
    """The producer died between its commit and its publish."""
    store.insert([new_job(queue, "orphan")], handover=Handover.BROKER, relay_after_s=0.3)
    start(store, publish_for(store))

    eventually(lambda: exists(rabbit, queue) and depth(rabbit, queue) == 1, deadline_s=20)


@pytest.mark.rabbitmq
def test_purged_messages_are_found_and_published_again(store, queue, rabbit, publish_for, start, monkeypatch):
    monkeypatch.setattr(missing, "MISSING_S", 0.3)
    start(store, publish_for(store))
    store.insert([new_job(queue, f"j{number}") for number in range(5)], handover=Handover.RELAY)
    eventually(lambda: store.awaiting_broker().get(queue) == 5, deadline_s=20)
    eventually(lambda: depth(rabbit, queue) == 5)

    rabbit.queue_purge(queue)

    eventually(lambda: depth(rabbit, queue) == 5, deadline_s=30)
    refs = [ClaimRef(body, epoch) for body, epoch in bodies(rabbit, queue)]
    store.register_worker(worker_info("w", queue), lease_s=60)
    assert len(store.claim(refs, worker="w").claimed) == 5


@pytest.mark.rabbitmq
def test_a_deleted_queue_comes_back_with_its_jobs(store, queue, rabbit, publish_for, start, monkeypatch):
    monkeypatch.setattr(missing, "MISSING_S", 0.3)
    start(store, publish_for(store))
    store.insert([new_job(queue, f"j{number}") for number in range(5)], handover=Handover.RELAY)
    eventually(lambda: store.awaiting_broker().get(queue) == 5, deadline_s=20)

    rabbit.queue_delete(queue)

    eventually(lambda: exists(rabbit, queue) and depth(rabbit, queue) == 5, deadline_s=40)


@pytest.mark.rabbitmq
def test_two_schedulers_at_once_publish_each_job_once(store, store_url, queue, rabbit, publish_for, start, open_):
    other = open_(store_url)
    first, second = start(store, publish_for(store)), start(other, publish_for(other))
    count = 300
    store.insert(
        [new_job(queue, f"j{number}", delay_s=0.005 * number) for number in range(count)], handover=Handover.BROKER
    )

    # Not eventually "300 and no more": all are settled, so nobody is to publish any of them again.
    eventually(lambda: store.awaiting_broker().get(queue) == count, deadline_s=60)
    assert first.leads != second.leads
    got = bodies(rabbit, queue)
    assert len(got) == len(set(got)) == count


def test_without_a_broker_stragglers_become_claimable(store, queue, start):
    store.insert([new_job(queue, "straggler")], handover=Handover.RELAY)
    store.register_worker(worker_info("w", queue), lease_s=60)
    assert store.claim_next([queue], 10, worker="w") == ()

    start(store)

    claimed = eventually(lambda: store.claim_next([queue], 10, worker="w"), deadline_s=20)
    assert [job.id for job in claimed] == ["straggler"]


def test_a_job_older_than_its_queues_limit_expires(store, queue, start):
    policy = store.put_policy(queue, {"maxAge": "1s"}, owner="test")
    assert isinstance(policy, QueuePolicy)
    store.insert([new_job(queue, "old")], handover=Handover.STORE)

    start(store)

    row = eventually(lambda: (row := store.get("old")).status is JobStatus.FAILED and row, deadline_s=60)
    assert row.error is not None
