"""Jobs of dead workers come back; those of workers that only lost the store do not."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from playbill.errors import StoreError
from playbill.policy.states import JobStatus
from playbill.settings import Settings
from playbill.store.migrate import migrate
from playbill.store.values import Handover
from tests.integration.scheduler.proxy import Proxy
from tests.integration.scheduler.work import QUICK, new_job, worker_info
from tests.support.waiting import eventually

LEASE_S = QUICK["lease_s"]


@pytest.fixture
def store(store_url, open_):
    migrate(Settings(store_url=store_url))
    return open_(store_url)


class Worker:
    """Claims one job and keeps its lease alive until it is told to die."""

    def __init__(self, store, name, queue):
        self.store, self.name = store, name
        self.known = True
        self._dead = threading.Event()
        store.register_worker(worker_info(name, queue), lease_s=LEASE_S)
        (self.job,) = eventually(lambda: store.claim_next([queue], 1, worker=name))
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()

    def die(self):
        self._dead.set()
        self._thread.join(60)

    def _beat(self):
        while not self._dead.wait(QUICK["heartbeat_s"]):
            try:
                self.known &= self.store.heartbeat(self.name, lease_s=LEASE_S, running=[self.job.id]).known
            except StoreError:
                continue  # as a worker does: try again with the next beat


@pytest.fixture
def worker(resources):
    def make(store, name, queue):
        made = Worker(store, name, queue)
        resources.callback(made.die)
        return made

    return make


def test_the_job_of_a_dead_worker_comes_back_and_that_of_a_live_one_does_not(store, queue, start, worker):
    store.insert([new_job(queue, "a"), new_job(queue, "b")], handover=Handover.STORE)
    dead, live = worker(store, "dead", queue), worker(store, "live", queue)
    start(store)

    dead.die()

    row = eventually(lambda: (row := store.get(dead.job.id)).status is not JobStatus.PROCESSING and row, deadline_s=60)
    assert row.status is JobStatus.PENDING
    assert row.epoch > dead.job.epoch
    assert live.known
    assert store.get(live.job.id).status is JobStatus.PROCESSING
    assert [worker.id for worker in store.workers()] == ["live"]


def test_a_new_scheduler_waits_a_full_lease_before_its_first_rescue(store, queue, start, worker):
    store.insert([new_job(queue, "a")], handover=Handover.STORE)
    worker(store, "dead", queue).die()
    eventually(lambda: not store.workers(), deadline_s=30)

    began = time.monotonic()
    start(store)
    eventually(lambda: store.get("a").status is JobStatus.PENDING, deadline_s=60)

    assert time.monotonic() - began >= LEASE_S


def test_a_job_that_kills_its_worker_alone_again_and_again_fails(store, queue, start):
    store.insert([new_job(queue, "poison")], handover=Handover.STORE)
    start(store, poison_limit=2)

    for number in range(2):
        name = f"w{number}"
        store.register_worker(worker_info(name, queue), lease_s=60)
        eventually(lambda name=name: store.claim_next([queue], 1, worker=name), deadline_s=60)
        store.run_alone(name, "poison")
        store.end_worker(name, reason="killed by signal 9")
        eventually(lambda: store.get("poison").status is not JobStatus.PROCESSING, deadline_s=60)

    row = store.get("poison")
    assert row.status is JobStatus.FAILED
    assert "signal 9" in row.error.message


@pytest.mark.postgres
def test_a_store_outage_causes_no_mass_rescue(postgres_database, open_, queue, start, worker, resources):
    url = sa.make_url(postgres_database)
    proxy = Proxy(url.port)
    resources.callback(proxy.close)
    through = url.set(port=proxy.port, host="127.0.0.1").render_as_string(hide_password=False)
    beside, theirs, ours = open_(postgres_database), open_(through), open_(through)
    count = 5
    beside.insert([new_job(queue, f"j{number}") for number in range(count)], handover=Handover.STORE)
    workers = [worker(theirs, f"w{number}", queue) for number in range(count)]
    scheduler = start(ours)
    eventually(lambda: scheduler.leads, deadline_s=30)
    # Contact for longer than a lease: from here on rescues are allowed.
    eventually(scheduler._may_rescue, deadline_s=30)

    proxy.cut()
    eventually(lambda: not beside.workers(), deadline_s=60, what="all leases end while the store is out of reach")
    proxy.mend()

    eventually(scheduler._may_rescue, deadline_s=60)
    eventually(lambda: len(beside.workers()) == count, deadline_s=30)
    assert all(each.known for each in workers)
    for each in workers:
        row = beside.get(each.job.id)
        assert (row.status, row.epoch) == (JobStatus.PROCESSING, each.job.epoch)
