"""What did not come from Playbill: messages of plain Dramatiq producers, and garbage."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
import pika
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker

import playbill
from playbill.policy.states import JobStatus
from tests.support.transports import App
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq]


def body(**changes: Any) -> bytes:
    """A message as Dramatiq encodes it."""
    message = {
        "queue_name": "q",
        "actor_name": "act",
        "args": [],
        "kwargs": {},
        "options": {},
        "message_id": "m1",
        "message_timestamp": 1,
    }
    return json.dumps(message | changes).encode()


def test_messages_of_a_plain_producer_run_and_are_tracked_delayed_ones_too(rabbit_app: App) -> None:
    app = rabbit_app
    # Given a stock Dramatiq producer, which declares the queues its own way
    stock = RabbitmqBroker(url=app.urls["broker_url"])
    stock.declare_queue(app.queue, ensure=True)

    @app.actor(actor_name="act")
    def act(number: int) -> int:
        return number + 1

    message: dramatiq.Message[Any] = dramatiq.Message(app.queue, "act", (1,), {}, {})
    late: dramatiq.Message[Any] = dramatiq.Message(app.queue, "act", (2,), {}, {})
    stock.enqueue(message)
    late = stock.enqueue(late, delay=20_000)
    overdue: dramatiq.Message[Any] = dramatiq.Message(app.queue, "act", (3,), {}, {})
    overdue = stock.enqueue(overdue, delay=1)
    stock.close()
    # When a worker of ours consumes that queue
    app.schedule()
    app.work()
    # Then both run; the delayed one has waited in the store
    assert app.ends(message.message_id).result == "2"
    assert app.ends(overdue.message_id).result == "4"
    eventually(lambda: app.store.get(late.message_id), deadline_s=15)
    assert app.row(late.message_id).status is JobStatus.SCHEDULED
    row = app.ends(late.message_id, deadline_s=60)
    assert (row.result, row.queue) == ("3", app.queue)
    assert row.started_at is not None
    assert row.started_at >= row.run_at > row.created_at


def test_garbage_is_parked_with_its_reason_and_stops_nobody(rabbit_app: App) -> None:
    app = rabbit_app

    @app.actor(actor_name="act")
    def act() -> int:
        return 1

    # Given a worker, and messages that are none
    app.schedule()
    app.work()
    assert playbill.enqueue(act).wait(30) == 1
    channel = pika.BlockingConnection(pika.URLParameters(app.urls["broker_url"])).channel()
    garbage = [
        b"\x00\xff no JSON",
        b"[]",
        b"{}",
        body(actor_name=None),
        body(actor_name="a\x00b"),
        body(kwargs=[1]),
        body(options={"eta": 1e300}),
        body(options={"eta": "soon"}),
    ]
    for each in garbage:
        channel.basic_publish("", app.queue, each, pika.BasicProperties(headers={"note": "a\x00b"}))
    odd = pika.BasicProperties(headers={"playbill-id": 7, "playbill-epoch": "x"})
    channel.basic_publish("", app.queue, body(), odd)
    lost = pika.BasicProperties(headers={"playbill-id": "nobody", "playbill-epoch": 1})
    channel.basic_publish("", app.queue, body(message_id="nobody"), lost)

    # Then each is parked with its body, and jobs go on
    def parked() -> list[Any]:
        return [each for each in app.store.parked(limit=100) if each.queue == app.queue]

    eventually(lambda: len(parked()) == len(garbage) + 2, deadline_s=30)
    assert {each.body for each in parked()} == {*garbage, body(), body(message_id="nobody")}
    assert all(each.reason for each in parked())
    assert app.store.get("nobody") is None
    assert playbill.enqueue(act).wait(30) == 1
    assert channel.queue_declare(app.queue, passive=True).method.message_count == 0
    channel.connection.close()


def test_an_eta_in_the_past_runs_at_once(rabbit_app: App) -> None:
    app = rabbit_app

    @app.actor(actor_name="act")
    def act() -> int:
        return 1

    app.schedule()
    app.work()
    assert playbill.enqueue(act).wait(30) == 1
    channel = pika.BlockingConnection(pika.URLParameters(app.urls["broker_url"])).channel()
    channel.basic_publish("", app.queue, body(message_id=f"old-{app.queue}", options={"eta": 1000}))
    assert app.ends(f"old-{app.queue}").status is JobStatus.COMPLETED
    channel.connection.close()
