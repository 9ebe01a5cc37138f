"""One worker for several queues: the queues share it by weight."""

from __future__ import annotations

import time

import pytest

import playbill
from tests.integration.worker.crew import Crew
from tests.integration.worker.jobs import other
from tests.support.transports import App
from tests.support.waiting import eventually


def share(crew: Crew, *, ms: int, count: int) -> float:
    """How many of the first ``count`` starts are the heavy queue's, while both have more work than that."""
    heavy = set(crew.enqueue_many("nap", count, ms))
    crew.enqueue_many("tick", count, ms)
    crew.start(threads=4, queues={crew.queue: 3, other(crew.queue): 1})
    eventually(lambda: crew.started() >= count, deadline_s=60)
    return sum(note.job_id in heavy for note in crew.notes()[:count]) / count


def test_queues_with_short_jobs_share_a_worker_by_weight(embedded: Crew) -> None:
    assert 0.65 <= share(embedded, ms=2, count=200) <= 0.85


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_queues_with_long_jobs_share_a_worker_by_weight(rabbit: Crew) -> None:
    assert 0.6 <= share(rabbit, ms=110, count=40) <= 0.9


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_queue_that_gets_work_later_waits_no_longer_than_its_weight_says(rabbit: Crew) -> None:
    # Given: a worker that is busy with long jobs of one of two queues of equal weight
    rabbit.enqueue_many("nap", 40, 110)
    rabbit.start(threads=2, queues={rabbit.queue: 1, other(rabbit.queue): 1})
    rabbit.await_started(6)
    # When: the other one has a job
    before = rabbit.started()
    job = rabbit.enqueue("tick", 1)
    assert job is not None
    rabbit.await_start(job)
    # Then: it is among the next: a few may have been claimed when it came, and a few more while it was on its way
    position = [note.job_id for note in rabbit.notes()].index(job) - before
    assert position <= 8


def cpu_s(app: App, queues: dict[str, int], count: int) -> float:
    """What it costs to run jobs of 2 ms in some queues."""
    done: list[str] = []

    def work(queue: str) -> None:
        time.sleep(0.002)
        done.append(queue)

    actors = [app.actor(work, actor_name=f"work-{queue}", queue_name=queue) for queue in queues]
    playbill.enqueue_many([actor.message(actor.queue_name) for actor in actors for _ in range(count // len(actors))])
    before = time.process_time()
    session = app.work(threads=4, queues=queues)
    eventually(lambda: len(done) == count, deadline_s=60)
    cost_s = time.process_time() - before
    session.drain(10)
    return cost_s


def test_two_queues_cost_hardly_more_than_one(sqlite_app: App) -> None:
    # Given: so many jobs in one queue
    one_s = cpu_s(sqlite_app, {"single": 1}, 300)
    # When: as many are in two
    two_s = cpu_s(sqlite_app, {"heavy": 3, "light": 1}, 300)
    # Then: a queue whose turn it is not waits for it, and does not ask all the time
    assert two_s < 4 * one_s
