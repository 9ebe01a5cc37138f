"""Schedulers that die or freeze: another takes over, and the old one does no harm when it wakes."""

from __future__ import annotations

import signal
import time

import pytest
import sqlalchemy as sa

from tests.faults.stage import DEADLINE_S
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.slow]

#: A killed leader is replaced within so long, s.
REPLACED_S = 15.0


def leader(stage, processes):
    """The process that leads."""
    by_pid = {process.pid: process for process in processes}

    def leading():
        leaders = stage.store.database.tables.leaders
        with stage.database.connect() as connection:
            query = sa.select(leaders.c.holder).where(leaders.c.expires_at > sa.func.clock_timestamp())
            holders = connection.execute(query).scalars().all()
        return next((by_pid.get(int(holder.split("-")[-2])) for holder in holders), None)

    return eventually(leading, deadline_s=DEADLINE_S, what="a leader")


def test_a_killed_leader_is_replaced(stage):
    # Given: two schedulers, busy workers, and work that only a scheduler releases
    schedulers = [stage.start_scheduler(), stage.start_scheduler()]
    workers = stage.start_workers()
    first = leader(stage, schedulers)
    stage.enqueue_mix(60)
    stage.await_started(10)
    # When: the leader dies at a random moment, and a worker with it
    time.sleep(stage.random.uniform(0, 0.5))
    first.kill_group()
    workers.children()[0].kill()
    killed_at = time.monotonic()
    # Then
    others = [process for process in schedulers if process is not first]
    leader(stage, others)
    assert time.monotonic() - killed_at < REPLACED_S
    stage.enqueue_mix(20)
    stage.settle()


def test_a_frozen_leader_is_replaced_and_does_no_harm_when_it_wakes(stage):
    # Given
    schedulers = [stage.start_scheduler(), stage.start_scheduler()]
    workers = stage.start_workers()
    first = leader(stage, schedulers)
    stage.enqueue_mix(60)
    stage.await_started(10)
    # When: it freezes, another leads, a worker dies, and the first one wakes up in the middle of the rescue
    time.sleep(stage.random.uniform(0, 0.5))
    first.signal(signal.SIGSTOP)
    second = leader(stage, [process for process in schedulers if process is not first])
    workers.children()[0].kill()
    stage.enqueue_mix(20)
    time.sleep(stage.random.uniform(0, 1.0))
    first.signal(signal.SIGCONT)
    stage.enqueue_mix(20)
    # Then
    stage.settle()
    assert second is not first
