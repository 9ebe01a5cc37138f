"""PostgreSQL that crashes and comes back."""

from __future__ import annotations

import threading

import pytest

from playbill.errors import StoreUnavailableError
from tests.faults.stage import DEADLINE_S
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.slow]


def test_a_store_that_crashes_while_jobs_run_finds_them_all_again(stage, postgres):
    # Given
    stage.start_scheduler()
    stage.start_workers()
    stage.enqueue_mix(80)
    stage.await_started(15)
    # When
    postgres.restart("immediate")
    # Then: workers keep their results and commit them by their fence
    stage.enqueue_mix(20)
    stage.settle()


def test_a_store_that_crashes_while_jobs_are_enqueued_accepts_or_refuses_clearly(stage, postgres):
    # Given: a producer that never stops
    stage.start_scheduler()
    stage.start_workers()
    stop = threading.Event()
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            while not stop.wait(0.01):
                stage.enqueue_any()
        except Exception as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        stage.await_started(10)
        # When
        postgres.stop("immediate")
        eventually(lambda: stage.refused, deadline_s=DEADLINE_S, what="a refusal")
        postgres.start()
        accepted = len(stage.expected)
        eventually(lambda: len(stage.expected) > accepted + 5, deadline_s=DEADLINE_S, what="jobs accepted again")
    finally:
        stop.set()
        producer.join()
    # Then
    assert errors == []
    assert all(isinstance(error, StoreUnavailableError) for error in stage.refused)
    stage.settle()
