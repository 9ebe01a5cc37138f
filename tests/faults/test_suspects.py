"""Suspects run alone: whatever becomes of one, the next one gets its turn."""

from __future__ import annotations

import dramatiq
import pytest

from playbill.errors import StoreUnavailableError
from playbill.store.values import WorkerInfo
from playbill.worker.attempt import Attempt
from playbill.worker.session import WorkerSession
from tests.faults.stage import Stage


@pytest.fixture
def embedded(tmp_path, stages):
    """A store; nothing here is random."""
    url = f"sqlite:///{tmp_path}/store.db"
    stages.append(Stage(tmp_path, store_url=url, broker_url=None, queue="faults", seed=1))
    return stages[-1]


@pytest.fixture
def session(embedded):
    """A worker that has claimed two jobs and not started."""
    session = WorkerSession(embedded.runtime.broker, queues={embedded.queue: 1}, threads=1)
    session.store.register_worker(
        WorkerInfo(session.worker_id, "here", 1, (embedded.queue,), ("noop",), 1, "0"), lease_s=60
    )
    return session


@pytest.fixture
def attempts(embedded, session):
    embedded.enqueue("noop")
    embedded.enqueue("noop")
    claimed = session.store.claim_next([embedded.queue], 2, worker=session.worker_id)
    session.slots.claimed_by(embedded.queue, 2)
    return [Attempt(job, dramatiq.Message.decode(job.message), session, worker=session.worker_id) for job in claimed]


def test_a_suspect_that_is_given_back_before_it_starts_makes_way(session, attempts):
    # Given
    assert session.begin_alone(attempts[0])
    assert not session.begin_alone(attempts[1])
    # When: it is taken out of the queue again, as a busy worker does
    session.release([attempts[0]])
    # Then
    assert session.begin_alone(attempts[1])


def test_a_suspect_that_cannot_be_written_down_is_tried_again(session, attempts, monkeypatch):
    # Given: a store that is away
    def away(*_):
        raise StoreUnavailableError("away")

    with monkeypatch.context() as outage:
        outage.setattr(session.store, "run_alone", away)
        # When
        with pytest.raises(StoreUnavailableError):
            session.begin_alone(attempts[0])
    # Then
    assert session.begin_alone(attempts[0])


def test_a_suspect_that_ends_while_the_store_is_away_makes_way(session, attempts, monkeypatch):
    # Given
    assert session.begin_alone(attempts[0])

    def away(*_):
        raise StoreUnavailableError("away")

    # When
    with monkeypatch.context() as outage:
        outage.setattr(session.store, "run_alone", away)
        session.ended(attempts[0])
    # Then
    assert session.begin_alone(attempts[1])
