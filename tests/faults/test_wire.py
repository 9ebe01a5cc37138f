"""Connections cut at the worst moments: after the deed, before its answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pika
import pytest

from tests.faults.conftest import postgres_stage
from tests.faults.proxy import Proxy
from tests.faults.stage import DEADLINE_S
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.slow]


def through(url: str, proxy: Proxy) -> str:
    """The same URL by way of the proxy."""
    return re.sub(r":\d+/", f":{proxy.port}/", url)


def consumers(url: str, queue: str) -> int:
    """How many workers the broker delivers a queue to."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.consumer_count)


@pytest.fixture
def make_proxy() -> Iterator[Callable[[int], Proxy]]:
    """Makes proxies that end with the test."""
    made: list[Proxy] = []

    def make(port: int) -> Proxy:
        made.append(Proxy(port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def test_a_connection_cut_between_publish_and_confirm_loses_nothing(
    postgres, rabbit, tmp_path, stages, seed, make_proxy
):
    # Given: a producer whose broker answers through a wire that we hold
    proxy = make_proxy(rabbit.port)
    stage = postgres_stage(postgres, through(rabbit.url, proxy), tmp_path, seed)
    stages.append(stage)
    stage.start_scheduler(broker_url=rabbit.url)
    stage.start_workers(broker_url=rabbit.url)
    stage.enqueue_mix(5)
    stage.await_terminal()
    for _ in range(3):
        # When: messages have reached the broker, and their confirms are lost with the connection
        proxy.hold_answers()
        stage.enqueue_mix(15)
        eventually(lambda: proxy.answers_held_bytes, deadline_s=DEADLINE_S, what="confirms held back")
        time.sleep(stage.random.uniform(0, 0.1))
        proxy.cut()
        stage.enqueue_mix(5)
    # Then: what was published twice ran once
    stage.settle()
    naps = [id_ for id_, expected in stage.expected.items() if expected.actor in ("nap", "noop", "batches")]
    runs = stage.runs()
    assert {id_: runs[id_] for id_ in naps if runs[id_] != 1} == {}


def test_a_connection_cut_between_commit_and_ack_runs_nothing_twice(stage, rabbit, make_proxy):
    # Given: workers whose acks go through a wire that we hold
    proxy = make_proxy(rabbit.port)
    stage.start_scheduler()
    stage.start_workers(broker_url=through(rabbit.url, proxy))
    stage.enqueue_mix(10)
    for _ in range(3):
        stage.await_terminal()
        eventually(lambda: consumers(rabbit.url, stage.queue) >= 2, deadline_s=DEADLINE_S, what="two consumers")
        # When: claims are committed, and their acks are lost with the connection
        started = stage.started()
        proxy.hold_requests()
        stage.enqueue_mix(15)
        stage.await_started(started + 1)
        eventually(lambda: proxy.requests_held_bytes, deadline_s=DEADLINE_S, what="acks held back")
        time.sleep(stage.random.uniform(0, 0.1))
        proxy.cut()
    # Then: what was delivered again did not run again
    stage.settle()
    naps = [id_ for id_, expected in stage.expected.items() if expected.actor in ("nap", "noop", "batches")]
    runs = stage.runs()
    assert {id_: runs[id_] for id_ in naps if runs[id_] != 1} == {}


def test_a_store_connection_cut_between_commit_and_answer_leaves_no_job_behind(
    postgres, rabbit, tmp_path, stages, seed, make_proxy
):
    # Given: workers and scheduler that reach the store through a wire that we hold
    stage = postgres_stage(postgres, rabbit.url, tmp_path, seed)
    stages.append(stage)
    proxy = make_proxy(postgres.port)
    direct = stage.runtime.settings.store_url.get_secret_value()
    stage.start_scheduler(store_url=through(direct, proxy))
    stage.start_workers(store_url=through(direct, proxy))
    for _ in range(5):
        # When: claims and finishes are committed, and their answers are lost with the connection
        started = stage.started()
        stage.enqueue_mix(20)
        stage.await_started(started + 1)
        time.sleep(stage.random.uniform(0, 0.1))
        proxy.hold_answers()
        eventually(lambda: proxy.answers_held_bytes, deadline_s=DEADLINE_S, what="answers held back")
        time.sleep(stage.random.uniform(0, 0.2))
        proxy.cut()
    # Then
    stage.settle()
