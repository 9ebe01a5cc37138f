"""Publisher and intake on a healthy server."""

from __future__ import annotations

import threading
import time

import dramatiq
import pika
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from prometheus_client import REGISTRY

from playbill.broker.port import Delivery, Outgoing
from playbill.broker.rabbitmq.connection import ConnectionThread
from playbill.broker.rabbitmq.intake import RabbitIntake
from playbill.broker.rabbitmq.topology import queue_arguments
from playbill.errors import BrokerUnavailableError
from tests.integration.rabbitmq.conftest import Transport, messages
from tests.support.waiting import eventually

pytestmark = pytest.mark.rabbitmq


def take_all(intake: RabbitIntake, queue: str, count: int, deadline_s: float = 20.0) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + deadline_s
    while len(found) < count and time.monotonic() < deadline:
        found += intake.take(queue, count - len(found), 0.2)
    return found


def test_published_messages_are_confirmed_and_arrive_in_order(transport: Transport, queue: str) -> None:
    # Given a publisher
    publisher, confirmed = transport.publisher()
    # When it publishes more than one window of confirms
    publisher.publish(messages(queue, 5000))
    assert publisher.flush(30)
    # Then each is confirmed, and each arrives once, in order, with its headers
    assert sorted(confirmed) == sorted(f"job-{i}" for i in range(5000))
    intake = transport.intake()
    intake.open(queue, 200)
    found: list[Delivery] = []
    while len(found) < 5000:
        batch = take_all(intake, queue, 100)
        assert batch
        intake.ack(batch)
        found += batch
    assert [each.id for each in found] == [f"job-{i}" for i in range(5000)]
    assert {each.epoch for each in found} == {1}
    assert not any(each.redelivered for each in found)


def test_threads_share_one_publisher(transport: Transport, queue: str) -> None:
    publisher, confirmed = transport.publisher()

    def publish(start: int) -> None:
        for message in messages(queue, 200, start=start):
            publisher.publish([message])

    threads = [threading.Thread(target=publish, args=(200 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publisher.flush(30)
    assert sorted(confirmed) == sorted(f"job-{i}" for i in range(1600))


def test_a_message_for_a_queue_that_was_deleted_is_not_confirmed_and_the_next_one_makes_it_anew(
    transport: Transport, queue: str
) -> None:
    # Given a publisher that has declared its queue, which is deleted behind its back
    publisher, confirmed = transport.publisher()
    publisher.publish(messages(queue, 1))
    assert publisher.flush(10)
    channel = transport.channel()
    channel.queue_delete(queue)
    channel.connection.close()
    # When it publishes again
    publisher.publish(messages(queue, 1, start=1))
    assert publisher.flush(10)
    # Then that one is returned and not confirmed, and the following one finds a new queue
    assert confirmed == ["job-0"]
    publisher.publish(messages(queue, 1, start=2))
    assert publisher.flush(10)
    assert confirmed == ["job-0", "job-2"]
    assert transport.depth(queue) == 1


def test_a_process_that_ends_at_once_has_published_what_it_enqueued(transport: Transport, queue: str) -> None:
    publisher, confirmed = transport.publisher()
    publisher.publish(messages(queue, 3))
    publisher.close(10)
    assert len(confirmed) == 3


def test_a_queue_that_we_may_not_use_does_not_hold_up_the_others(transport: Transport, queue: str) -> None:
    # Given many messages for a queue whose name the server refuses, and one for another
    publisher, confirmed = transport.publisher()
    publisher.publish([Outgoing(f"bad-{i}", 1, "amq.forbidden", b"x") for i in range(3000)])
    publisher.publish(messages(queue, 1))
    # Then the other is confirmed, and nothing is outstanding
    eventually(lambda: confirmed == ["job-0"], deadline_s=20)
    assert publisher.flush(20)


def test_a_full_buffer_leaves_the_rest_to_the_relay(transport: Transport, queue: str) -> None:
    publisher, confirmed = transport.publisher(buffer_limit=10)
    publisher.publish(messages(queue, 100))
    assert publisher.flush(20)
    assert len(confirmed) <= 10


def test_an_existing_queue_of_another_kind_is_used_as_it_is(transport: Transport, queue: str) -> None:
    # Given a classic queue with arguments of somebody else
    channel = transport.channel()
    channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 5, "x-message-ttl": 600_000})
    # When we publish and consume there
    publisher, confirmed = transport.publisher()
    publisher.publish(messages(queue, 2))
    assert publisher.flush(10)
    intake = transport.intake()
    intake.open(queue, 10)
    # Then it works, and no parking queue was made
    assert len(take_all(intake, queue, 2)) == 2
    assert len(confirmed) == 2
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        channel.queue_declare(f"{queue}.parked", passive=True)
    channel.connection.close()


def test_a_plain_dramatiq_producer_that_came_first_is_consumed(
    transport: Transport, queue: str, request: pytest.FixtureRequest
) -> None:
    # Given a stock broker that made its queues its own way and published
    stock = RabbitmqBroker(url=transport.url, middleware=[])
    request.addfinalizer(stock.close)
    stock.declare_queue(queue)
    sent = stock.enqueue(dramatiq.Message(queue, "actor", (1,), {}, {}))
    # When our intake consumes
    intake = transport.intake()
    intake.open(queue, 10)
    # Then it gets the message, and knows that it is not one of ours
    (found,) = take_all(intake, queue, 1)
    assert (found.id, found.epoch) == (None, None)
    assert dramatiq.Message.decode(found.body) == sent
    # And the producer publishes on
    stock.enqueue(sent.copy())
    assert take_all(intake, queue, 1)
    for suffix in (".DQ", ".XQ"):
        stock.channel.queue_delete(queue + suffix)


def test_messages_larger_than_a_frame_and_empty_ones_arrive_whole(transport: Transport, queue: str) -> None:
    bodies = [b"x" * 300_000, b"", bytes(range(256)) * 1024]
    publisher, confirmed = transport.publisher()
    publisher.publish([Outgoing(str(number), 2**40, queue, body) for number, body in enumerate(bodies)])
    assert publisher.flush(20)
    assert len(confirmed) == 3
    intake = transport.intake()
    intake.open(queue, 10)
    found = take_all(intake, queue, 3)
    assert [each.body for each in found] == bodies
    assert [(type(each.epoch), each.epoch) for each in found] == [(int, 2**40)] * 3


def test_a_queue_made_by_us_is_a_quorum_queue_with_a_parking_queue(transport: Transport, queue: str) -> None:
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 1))
    assert publisher.flush(10)
    channel = transport.channel()
    channel.queue_declare(f"{queue}.parked", passive=True)
    # The same arguments are accepted, others are not
    channel.queue_declare(queue, durable=True, arguments=queue_arguments(queue))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="x-queue-type"):
        channel.queue_declare(queue, durable=True, arguments=queue_arguments(queue) | {"x-queue-type": "classic"})
    channel.connection.close()


def test_a_queue_that_others_make_is_found_when_it_comes(
    transport: Transport, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playbill.broker.rabbitmq.intake._ABSENT_S", 0.1)
    intake = transport.intake()
    intake.open(queue, 10, create=False)
    assert intake.take(queue, 1, 0.3) == []
    channel = transport.channel()
    channel.queue_declare(queue, durable=True)
    channel.basic_publish("", queue, b"x")
    assert [each.body for each in take_all(intake, queue, 1)] == [b"x"]
    channel.connection.close()


def test_no_more_than_the_prefetch_is_held_and_a_renewal_changes_it(transport: Transport, queue: str) -> None:
    # Given 50 messages and an intake with a prefetch of 5
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 50))
    assert publisher.flush(10)
    intake = transport.intake()
    intake.open(queue, 5)
    first = take_all(intake, queue, 5)
    assert len(first) == 5
    assert intake.take(queue, 1, 0.3) == []
    # When the prefetch rises
    intake.set_prefetch(queue, 20)
    # Then as many more arrive, without an ack (the server counts for each consumer by itself)
    assert len(take_all(intake, queue, 20)) == 20
    assert intake.take(queue, 1, 0.3) == []


def test_prefetch_changes_that_follow_each_other_end_at_the_last(transport: Transport, queue: str) -> None:
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 100))
    assert publisher.flush(10)
    intake = transport.intake()
    intake.open(queue, 1)
    for prefetch in (2, 64, 3, 40):
        intake.set_prefetch(queue, prefetch)
    assert len(take_all(intake, queue, 40)) == 40
    eventually(lambda: intake._subscriptions[queue].made_with == 40)


def test_a_suspended_intake_gives_everything_back_and_takes_nothing_until_it_resumes(
    transport: Transport, queue: str
) -> None:
    # Given an intake with deliveries in its buffer
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 10))
    assert publisher.flush(10)
    intake, other = transport.intake(), transport.intake()
    intake.open(queue, 100)
    eventually(lambda: transport.depth(queue) == 0)
    # When it is suspended and rejects what it held
    left = intake.suspend(queue)
    assert len(left) == 10
    intake.reject_to_broker(left)
    # Then another one has it at once
    other.open(queue, 100)
    deliveries = take_all(other, queue, 10)
    assert sorted(str(each.id) for each in deliveries) == sorted(f"job-{i}" for i in range(10))
    other.ack(deliveries)
    publisher.publish(messages(queue, 1, start=10))
    assert [each.id for each in take_all(other, queue, 1)] == ["job-10"]
    other.close()
    # And it takes again once it resumes
    intake.resume(queue)
    assert [each.id for each in take_all(intake, queue, 1)] == ["job-10"]


def test_suspend_resume_and_renewal_in_any_order_lose_and_hoard_nothing(transport: Transport, queue: str) -> None:
    """Whatever is asked while a consumer is being made or cancelled, a suspended one holds nothing."""
    publisher, _ = transport.publisher()
    intake = transport.intake()
    intake.open(queue, 4)
    for turn in range(60):
        publisher.publish(messages(queue, 1, start=turn))
        intake.set_prefetch(queue, 1 + turn % 7)
        intake.reject_to_broker(intake.suspend(queue))
        assert not intake._subscriptions[queue].buffer
        intake.resume(queue)
    assert publisher.flush(10)
    found: set[str] = set()
    while len(found) < 60:
        batch = take_all(intake, queue, 1)
        assert batch, f"only {len(found)} of 60 arrived"
        found.update(str(each.id) for each in batch)
        intake.ack(batch)
    intake.suspend(queue)
    eventually(lambda: transport.depth(queue) == 0)


def test_acks_out_of_order_settle_exactly_what_they_name(transport: Transport, queue: str) -> None:
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 10))
    assert publisher.flush(10)
    intake = transport.intake()
    intake.open(queue, 100)
    deliveries = take_all(intake, queue, 10)
    intake.ack([deliveries[i] for i in (7, 0, 1, 4)])
    intake.ack([deliveries[7]])  # twice: no harm
    intake.close()
    other = transport.intake()
    other.open(queue, 100)
    left = take_all(other, queue, 6)
    assert [each.id for each in left] == [f"job-{i}" for i in (2, 3, 5, 6, 8, 9)]
    assert other.take(queue, 1, 0.3) == []


def test_a_deleted_queue_is_made_anew_by_its_consumer(transport: Transport, queue: str) -> None:
    intake = transport.intake()
    intake.open(queue, 10)
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 1))
    (stale,) = take_all(intake, queue, 1)
    channel = transport.channel()
    channel.queue_delete(queue)
    eventually(lambda: intake._subscriptions[queue].generation > stale.generation)
    intake.ack([stale])  # of an older channel: dropped

    def publish_and_take() -> list[Delivery]:
        channel.basic_publish("", queue, b"again")
        return intake.take(queue, 1, 0.5)

    # RabbitMQ may find a queue once more while it goes, so that the first ones are lost with it
    assert eventually(publish_and_take, deadline_s=30)[0].body == b"again"
    channel.connection.close()


def test_depths_count_ready_messages_and_a_missing_queue_is_zero(transport: Transport, queue: str) -> None:
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 3))
    assert publisher.flush(10)
    missing = [f"{queue}-missing-{i}" for i in range(100)]
    eventually(lambda: publisher.depths([queue], 5) == {queue: 3})
    assert publisher.depths([queue, queue, *missing], 20) == {queue: 3, **dict.fromkeys(missing, 0)}
    assert publisher.depths([], 1) == {}


def test_a_closed_publisher_says_so(transport: Transport, queue: str) -> None:
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 1))
    publisher.close()
    assert not publisher.healthy
    with pytest.raises(BrokerUnavailableError):
        publisher.depths([queue], 0.2)


def test_a_call_into_a_closed_connection_is_refused(rabbitmq_url: str) -> None:
    class Listener:
        def connected(self) -> None: ...

        def disconnected(self) -> None: ...

    connection = ConnectionThread(rabbitmq_url, "test", Listener())
    connection.start()
    eventually(lambda: connection.is_open)
    stop = threading.Event()
    failures: list[Exception] = []

    def pester() -> None:
        while not stop.is_set():
            try:
                connection.call(lambda: None)
            except Exception as error:  # noqa: BLE001 - none may come
                failures.append(error)
                return

    threads = [threading.Thread(target=pester) for _ in range(4)]
    for thread in threads:
        thread.start()
    connection.close(10)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert connection.call(lambda: None) is False


def test_an_error_in_a_callback_does_not_end_the_thread_or_keep_its_messages(transport: Transport, queue: str) -> None:
    # Given an intake that holds a message
    publisher, _ = transport.publisher()
    publisher.publish(messages(queue, 1))
    intake = transport.intake()
    intake.open(queue, 10)
    assert take_all(intake, queue, 1)

    # When something raises in the connection's thread
    def broken() -> None:
        raise ValueError("a bug")

    assert intake._connection.call(broken)
    # Then the connection is made anew, and the message comes again
    (again,) = take_all(intake, queue, 1)
    assert again.redelivered


def test_a_message_that_amqp_cannot_carry_is_dropped_and_all_others_are_published(
    transport: Transport, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a publisher, and messages that AMQP cannot carry among good ones
    publisher, confirmed = transport.publisher()
    first, second = messages(queue, 2)
    bad = [Outgoing("x" * 256, 1, queue, b"{}"), Outgoing("a", 1, "q" * 256, b"{}"), Outgoing("\ud800", 1, queue, b"")]
    # When they are published together
    publisher.publish([first, *bad, second])
    assert publisher.flush(30)
    # Then the good ones are confirmed on a connection that never broke, and one line tells of the rest
    assert sorted(confirmed) == [first.id, second.id]
    (line,) = [record.getMessage() for record in caplog.records if "publish.dropped" in record.getMessage()]
    assert "messages=3" in line
    assert not [record for record in caplog.records if "broker.disconnected" in record.getMessage()]
    # And such a queue has no depth, as it cannot exist
    assert publisher.depths([queue, "q" * 256], 20) == {queue: 2, "q" * 256: 0}
    assert publisher.depths(["q" * 256], 20) == {"q" * 256: 0}


def test_the_messages_that_wait_for_their_confirms_are_counted(transport: Transport, queue: str) -> None:
    # Given what the metric says
    def unconfirmed() -> float:
        return REGISTRY.get_sample_value("playbill_publisher_unconfirmed") or 0.0

    seen: list[float] = []
    before = unconfirmed()
    publisher, confirmed = transport.publisher()
    publisher._on_confirmed = lambda ids: (seen.append(unconfirmed()), confirmed(ids))  # type: ignore[func-returns-value]
    # When many are published and confirmed one after another
    publisher.publish(messages(queue, 1000))
    assert publisher.flush(30)
    assert eventually(lambda: len(confirmed) == 1000)
    # Then it went down to where it was
    assert unconfirmed() == before
    assert all(before <= value < before + 1000 for value in seen)
    assert max(seen) > before or len(seen) == 1
