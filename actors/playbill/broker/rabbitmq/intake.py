"""Receives messages: one connection, a channel and a consumer for each queue, deliveries buffered for other threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import ChannelClosedByClient

from playbill.broker.port import HEADER_EPOCH, HEADER_ID, Delivery
from playbill.broker.rabbitmq.connection import ConnectionThread
from playbill.observe import events
from playbill.observe.log import get_logger

log = get_logger(__name__)

_REOPEN_S = 0.5
_REFUSED_S = 2.0  #: until a refused declaration is tried again
_ABSENT_S = 10.0  #: until a queue that we do not make is looked for again


class _Subscription:
    """One queue consumed. Its fields belong to the connection's thread, but for the buffer (under the lock)."""

    def __init__(self, queue: str, prefetch: int, *, create: bool) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.create = create
        self.declaring = False
        self.consuming = False  #: the server has confirmed the consumer
        self.made_with = 0  #: prefetch of the consumer that is there
        self.suspended = False
        self.channel: Channel | None = None
        self.consumer_tag: str | None = None
        self.cancelling = False
        self.generation = 0
        self.buffer: deque[Delivery] = deque()
        #: Delivered and not acknowledged, in order of arrival: what a "multiple" ack may cover.
        self.outstanding: dict[int, None] = {}
        #: Set once no consumer is active any more.
        self.waiting: list[threading.Event] = []


class RabbitIntake:
    """A :class:`playbill.broker.port.Intake` on one connection.

    Args:
        url: The broker's URL.
    """

    def __init__(self, url: str) -> None:
        self._changed = threading.Condition()
        self._subscriptions: dict[str, _Subscription] = {}
        self._acks: deque[Delivery] = deque()
        self._acking = False
        self._connection = ConnectionThread(url, "playbill-intake", self)
        self._connection.start()

    # -- any thread ----------------------------------------------------------------------------------------------
    @property
    def healthy(self) -> bool:
        """Whether the connection is open."""
        return self._connection.is_open

    @property
    def alive(self) -> bool:
        """Whether the connection's thread runs."""
        return self._connection.alive

    def open(self, queue: str, prefetch: int, *, create: bool = True) -> None:
        """Consume a queue; see the port."""
        with self._changed:
            if queue in self._subscriptions:
                return
            subscription = self._subscriptions[queue] = _Subscription(queue, prefetch, create=create)
        self._connection.call(lambda: self._declare(subscription))

    def take(self, queue: str, limit: int, timeout_s: float) -> list[Delivery]:
        """Buffered deliveries; see the port."""
        buffer = self._subscriptions[queue].buffer
        with self._changed:
            if not buffer:
                self._changed.wait_for(lambda: buffer, timeout_s)
            return [buffer.popleft() for _ in range(min(limit, len(buffer)))]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; see the port."""
        with self._changed:
            self._acks.extend(deliveries)
            if self._acking or not self._acks:
                return
            self._acking = self._connection.call(self._flush_acks)
            if not self._acking:
                self._acks.clear()  # their connection is gone, and with it their tags

    def reject_to_broker(self, deliveries: Sequence[Delivery]) -> None:
        """Requeue; see the port."""
        if deliveries:
            self._connection.call(lambda: self._reject(deliveries))

    def set_prefetch(self, queue: str, prefetch: int) -> None:
        """Renew the consumer; see the port."""
        subscription = self._subscriptions[queue]
        if subscription.prefetch != prefetch:
            subscription.prefetch = prefetch
            self._connection.call(lambda: self._renew(subscription))

    def suspend(self, queue: str, timeout_s: float = 5.0) -> list[Delivery]:
        """Stop consuming; see the port."""
        subscription = self._subscriptions[queue]
        subscription.suspended = True
        quiet = threading.Event()
        # Asked in the connection's thread: only there it is known whether a consumer is, or is being made.
        if self._connection.call(lambda: self._silence(subscription, quiet)):
            deadline = time.monotonic() + timeout_s
            while not quiet.wait(0.05) and time.monotonic() < deadline and self._connection.is_open:
                pass
        with self._changed:
            left = list(subscription.buffer)
            subscription.buffer.clear()
        return left

    def resume(self, queue: str) -> None:
        """Consume again; see the port."""
        subscription = self._subscriptions[queue]
        subscription.suspended = False
        self._connection.call(lambda: self._consume(subscription))

    def close(self) -> None:
        """Close the connection."""
        self._flush_before_close()
        self._connection.close(5.0)

    def _flush_before_close(self) -> None:
        done = threading.Event()

        def flush() -> None:
            self._flush_acks()
            done.set()

        if self._connection.call(flush):
            done.wait(2.0)

    # -- the connection's thread ---------------------------------------------------------------------------------
    def connected(self) -> None:
        """Declare and consume all queues (again)."""
        for subscription in list(self._subscriptions.values()):
            self._declare(subscription)

    def disconnected(self) -> None:
        """What was delivered comes again: forget it."""
        for subscription in list(self._subscriptions.values()):
            self._forget(subscription)
        with self._changed:
            self._acks.clear()
            self._acking = False

    def _forget(self, subscription: _Subscription) -> None:
        with self._changed:
            subscription.generation += 1
            subscription.channel = None
            subscription.consumer_tag = None
            subscription.consuming = False
            subscription.cancelling = False
            subscription.buffer.clear()
            subscription.outstanding.clear()
        subscription.declaring = False
        self._tell_quiet(subscription)

    def _declare(self, subscription: _Subscription) -> None:
        if subscription.declaring or subscription.channel is not None:
            return
        subscription.declaring = True
        self._connection.declare(
            subscription.queue,
            lambda: self._connection.channel(lambda channel: self._opened(subscription, channel)),
            failed=lambda reason: self._refused(subscription, reason),
            create=subscription.create,
        )

    def _refused(self, subscription: _Subscription, reason: str) -> None:
        """Not now; perhaps later: rights are given, queues are made by others."""
        subscription.declaring = False
        if subscription.create:
            log.error(events.BROKER_DISCONNECTED, queue=subscription.queue, error=reason)
        self._connection.later(_REFUSED_S if subscription.create else _ABSENT_S, lambda: self._declare(subscription))

    def _opened(self, subscription: _Subscription, channel: Channel) -> None:
        subscription.declaring = False
        subscription.channel = channel
        channel.add_on_close_callback(lambda _, reason: self._channel_closed(subscription, channel, reason))
        channel.add_on_cancel_callback(lambda _: self._cancelled_by_broker(subscription))
        self._consume(subscription)

    def _channel_closed(self, subscription: _Subscription, channel: Channel, reason: Exception) -> None:
        if subscription.channel is not channel:
            return
        self._forget(subscription)
        if self._connection.is_open and not isinstance(reason, ChannelClosedByClient):
            log.warning(events.BROKER_DISCONNECTED, queue=subscription.queue, error=repr(reason))
            self._connection.later(_REOPEN_S, lambda: self._declare(subscription))

    def _cancelled_by_broker(self, subscription: _Subscription) -> None:
        """The queue was deleted, or its leader moved: make it anew."""
        log.warning(events.BROKER_DISCONNECTED, queue=subscription.queue, error="consumer cancelled by the broker")
        channel = subscription.channel
        self._forget(subscription)
        if channel is not None and channel.is_open:
            channel.close()
        self._declare(subscription)

    def _consume(self, subscription: _Subscription) -> None:
        channel = subscription.channel
        idle = subscription.consumer_tag is None and not subscription.cancelling
        if channel is None or not channel.is_open or subscription.suspended or not idle:
            return
        subscription.consumer_tag = ""  # being made
        subscription.consuming = False
        subscription.made_with = subscription.prefetch
        self._connection.expect(
            lambda: subscription.consuming or subscription.channel is not channel,
            f"the consumer of {subscription.queue}",
        )

        def tuned(_: Any) -> None:
            if channel.is_open:
                subscription.consumer_tag = channel.basic_consume(
                    subscription.queue, on_message, callback=lambda _: self._consuming(subscription)
                )

        generation = subscription.generation
        on_message = self._receiver(subscription, generation)
        channel.basic_qos(prefetch_count=subscription.made_with, callback=tuned)

    def _consuming(self, subscription: _Subscription) -> None:
        subscription.consuming = True
        if subscription.suspended or subscription.made_with != subscription.prefetch:
            self._cancel(subscription)

    def _receiver(
        self, subscription: _Subscription, generation: int
    ) -> Callable[[Channel, Any, pika.BasicProperties, bytes], None]:
        def on_message(_: Channel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
            headers = properties.headers or {}
            epoch = headers.get(HEADER_EPOCH)
            if isinstance(epoch, int):
                epoch = int(epoch)  # pika has a long of its own
            delivery = Delivery(
                subscription.queue,
                body,
                method.delivery_tag,
                generation,
                headers.get(HEADER_ID),
                epoch,
                method.redelivered,
                headers,
            )
            if generation != subscription.generation:
                return  # its channel is being closed, and the message goes back with it
            with self._changed:
                subscription.outstanding[method.delivery_tag] = None
                subscription.buffer.append(delivery)
                if len(subscription.buffer) == 1:
                    self._changed.notify_all()

        return on_message

    def _silence(self, subscription: _Subscription, quiet: threading.Event) -> None:
        """Cancel the consumer, and tell when it is gone; at once where there is none."""
        subscription.waiting.append(quiet)
        if subscription.consumer_tag is None:
            self._tell_quiet(subscription)
        else:
            self._cancel(subscription)

    @staticmethod
    def _tell_quiet(subscription: _Subscription) -> None:
        waiting, subscription.waiting = subscription.waiting, []
        for each in waiting:
            each.set()

    def _cancel(self, subscription: _Subscription) -> None:
        channel, tag = subscription.channel, subscription.consumer_tag
        if channel is None or not channel.is_open or not tag or subscription.cancelling:
            return  # gone, being made (then `_consuming` cancels it), or being cancelled
        subscription.cancelling = True
        channel.basic_cancel(tag, callback=lambda _: self._quiet(subscription))

    def _quiet(self, subscription: _Subscription) -> None:
        subscription.cancelling = False
        subscription.consumer_tag = None
        self._tell_quiet(subscription)
        self._consume(subscription)

    def _renew(self, subscription: _Subscription) -> None:
        """A prefetch holds for consumers made after it: cancel, and `_quiet` consumes anew."""
        if subscription.consumer_tag and not subscription.suspended:
            self._cancel(subscription)

    def _flush_acks(self) -> None:
        with self._changed:
            deliveries = list(self._acks)
            self._acks.clear()
            self._acking = False
        by_queue: dict[str, list[int]] = {}
        for delivery in deliveries:
            subscription = self._subscriptions[delivery.queue]
            if delivery.generation == subscription.generation and delivery.tag in subscription.outstanding:
                by_queue.setdefault(delivery.queue, []).append(delivery.tag)
        for queue, tags in by_queue.items():
            self._ack_tags(self._subscriptions[queue], tags)

    def _ack_tags(self, subscription: _Subscription, tags: list[int]) -> None:
        """One ``multiple`` ack for the tags that are the oldest outstanding ones, single acks for the others."""
        channel = subscription.channel
        if channel is None or not channel.is_open:
            return
        wanted = set(tags)
        last = 0
        for tag in subscription.outstanding:
            if tag not in wanted:
                break
            last = tag
        for tag in wanted:
            del subscription.outstanding[tag]
        if last:
            channel.basic_ack(last, multiple=True)
        for tag in sorted(wanted):
            if tag > last:
                channel.basic_ack(tag)

    def _reject(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            subscription = self._subscriptions[delivery.queue]
            channel = subscription.channel
            if channel is None or not channel.is_open or delivery.generation != subscription.generation:
                continue
            if subscription.outstanding.pop(delivery.tag, 0) is None:
                channel.basic_nack(delivery.tag, requeue=True)
