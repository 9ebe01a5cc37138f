"""A worker on SQLite whose threads do not run: its parts are called one by one."""

from __future__ import annotations

import dramatiq
import pytest
from dramatiq import broker as dramatiq_broker

import playbill
from playbill import client
from playbill.settings import Settings
from playbill.worker.session import WorkerSession

QUEUE = "work"


class Bench:
    """A store, a worker that has taken its lease, and jobs.

    Args:
        url: The store's URL.
        limits: Settings.
    """

    def __init__(self, url, **limits):
        client.reset()
        self.runtime = client.configure(Settings(store_url=url, **limits))
        self.store = self.runtime.store
        self.left = []
        dramatiq.actor(lambda: None, actor_name="act", queue_name=QUEUE)
        self.session = WorkerSession(self.runtime.broker, queues={QUEUE: 1}, threads=4, on_leaving=self.left.append)
        self.session.register()
        self._consumer = self.session._consumer(QUEUE, 1, 100)

    def claim(self):
        """A job, claimed by the worker."""
        playbill.enqueue(self.runtime.broker.actors["act"])
        return next(self._consumer).attempt

    def begin(self):
        """A job that a thread has taken up."""
        attempt = self.claim()
        self.session.begun(attempt)
        return attempt

    def lose_lease(self):
        """What becomes of a worker that was silent for too long."""
        self.store.end_worker(self.session.worker_id, reason="silent")


@pytest.fixture
def make_bench(tmp_path):
    """Makes the bench, with settings."""
    before = dramatiq_broker.global_broker
    yield lambda **limits: Bench(f"sqlite:///{tmp_path}/store.db", **limits)
    client.reset()
    dramatiq_broker.global_broker = before


@pytest.fixture
def bench(make_bench):
    """A bench with the settings as they come."""
    return make_bench()
