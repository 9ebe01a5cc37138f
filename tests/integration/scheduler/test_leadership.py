"""Leaders that are killed, frozen or stopped, in processes of their own."""

from __future__ import annotations

import os
import signal
import time

import pytest

from playbill.policy.states import JobStatus
from playbill.settings import Settings
from playbill.store.migrate import migrate
from playbill.store.values import Handover
from tests.integration.scheduler.work import new_job, worker_info
from tests.support.waiting import eventually

#: Time is what these cost, and a process frozen inside a write of SQLite keeps the file's only write lock anyway.
ON_POSTGRES = pytest.mark.parametrize(
    "store_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def store(store_url, open_):
    migrate(Settings(store_url=store_url))
    return open_(store_url)


def released(store, job_id):
    """Store mode shows that a leader works: a straggler becomes claimable."""
    store.insert([new_job("q", job_id)], handover=Handover.RELAY)
    return lambda: [job.id for job in store.claim_next(["q"], 10, worker="w")] == [job_id]


def test_a_killed_leader_is_replaced(store, store_url, spawn, leader_of):
    store.register_worker(worker_info("w", "q"), lease_s=600)
    leader = leader_of(store_url)
    processes = dict([spawn(store_url)[::-1], spawn(store_url)[::-1]])
    first = eventually(leader, deadline_s=30)
    eventually(released(store, "before"), deadline_s=30)

    processes[first].kill()

    (other,) = set(processes) - {first}
    eventually(lambda: leader() == other, deadline_s=30)
    eventually(released(store, "after"), deadline_s=30)


@pytest.mark.slow
@ON_POSTGRES
def test_a_killed_leader_is_replaced_within_15_s_with_the_settings_as_they_come(store, store_url, spawn, leader_of):
    default = Settings.model_fields["leader_lease_s"].default
    leader = leader_of(store_url)
    processes = dict(spawn(store_url, leader_lease_s=default, lease_s=15.0)[::-1] for _ in range(2))
    first = eventually(leader, deadline_s=30)
    (other,) = set(processes) - {first}
    processes[first].kill()
    began = time.monotonic()

    eventually(lambda: leader() == other, deadline_s=30)

    assert time.monotonic() - began < 15.0


def test_a_stopped_leader_resigns_and_is_replaced_at_once(store, store_url, spawn, leader_of):
    leader = leader_of(store_url)
    processes = dict(spawn(store_url, leader_lease_s=60.0, lease_s=2.0)[::-1] for _ in range(2))
    first = eventually(leader, deadline_s=30)
    (other,) = set(processes) - {first}

    processes[first].send_signal(signal.SIGTERM)

    assert processes[first].wait(30) == 0
    eventually(lambda: leader() == other, deadline_s=20, what="long before the lease of 60 s ends")


@pytest.mark.rabbitmq
@ON_POSTGRES
def test_a_frozen_leader_does_nothing_after_it_thaws(store, store_url, queue, rabbit, rabbitmq_url, spawn, leader_of):
    leader = leader_of(store_url)
    processes = dict(spawn(store_url, rabbitmq_url)[::-1] for _ in range(2))
    first = eventually(leader, deadline_s=30)
    (other,) = set(processes) - {first}
    count = 50

    os.kill(processes[first].pid, signal.SIGSTOP)
    eventually(lambda: leader() == other, deadline_s=30)
    store.insert(
        [new_job(queue, f"j{number}", delay_s=0.05 * number) for number in range(count)], handover=Handover.BROKER
    )
    os.kill(processes[first].pid, signal.SIGCONT)

    eventually(lambda: store.awaiting_broker().get(queue) == count, deadline_s=60)
    assert leader() == other
    assert rabbit.queue_declare(queue, durable=True, passive=True).method.message_count == count
    assert {row.status for row in map(store.get, (f"j{number}" for number in range(count)))} == {JobStatus.PENDING}
