"""Publishes with pipelined confirms: callers hand over and go on, confirms come back in the connection's thread."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, ChannelClosedByClient
from pika.spec import Basic

from playbill.broker.port import OnConfirmed, Outgoing
from playbill.broker.rabbitmq.connection import ConnectionThread
from playbill.broker.rabbitmq.framing import Framer, write
from playbill.broker.rabbitmq.losses import LossLog
from playbill.broker.rabbitmq.survey import Survey
from playbill.broker.rabbitmq.topology import carries_id, carries_queue
from playbill.errors import BrokerUnavailableError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics

log = get_logger(__name__)

#: Most messages, and bytes, written and not confirmed: beyond that they wait in the buffer.
_WINDOW = 2_000
_WINDOW_BYTES = 16 * 1024 * 1024
#: Most bytes kept that are not written yet.
_BUFFER_BYTES = 64 * 1024 * 1024


class RabbitPublisher:
    """A :class:`playbill.broker.port.Publisher` on one connection.

    Args:
        url: The broker's URL.
        on_confirmed: Hears of confirmed messages, in the connection's thread.
        on_closed: Called at the end of ``close``, when no confirm can come any more.
        buffer_limit: Most messages kept that are not written yet; the rest is left to the relay.
    """

    def __init__(
        self,
        url: str,
        *,
        on_confirmed: OnConfirmed,
        on_closed: Callable[[], None] | None = None,
        buffer_limit: int = 50_000,
    ) -> None:
        self._on_confirmed = on_confirmed
        self._on_closed = on_closed
        self._buffer_limit = buffer_limit
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._losses = LossLog()
        self._buffer: deque[Outgoing] = deque()
        self._buffered_bytes = 0
        self._scheduled = False
        self._channel: Channel | None = None
        self._framer: Framer | None = None
        self._unconfirmed_bytes = 0
        self._unconfirmed: OrderedDict[int, Outgoing] = OrderedDict()
        self._returned: set[str] = set()
        self._next_tag = 1
        self._declared: set[str] = set()
        self._declaring: dict[str, list[Outgoing]] = {}
        self._connection = ConnectionThread(url, "playbill-publisher", self)
        self._connection.start()

    # -- any thread ----------------------------------------------------------------------------------------------
    @property
    def healthy(self) -> bool:
        """Whether messages flow."""
        return self._connection.is_open and not self._connection.blocked

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Hand messages over; see the port."""
        good = [message for message in messages if carries_id(message.id) and carries_queue(message.queue)]
        self._losses.note(len(messages) - len(good), "id or queue name too long for RabbitMQ")
        if not good:
            return
        with self._lock:
            kept = 0
            for message in good:
                if len(self._buffer) >= self._buffer_limit or self._buffered_bytes >= _BUFFER_BYTES:
                    break
                self._buffer.append(message)
                self._buffered_bytes += len(message.body)
                kept += 1
            if kept and not self._scheduled:
                self._scheduled = self._connection.call(self._drain)
        self._losses.note(len(good) - kept, "buffer full")

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is confirmed (or given up); False where time ran out or the connection is down."""
        with self._settled:
            self._settled.wait_for(lambda: self._nothing_outstanding() or self._connection.is_down, timeout_s)
            return self._nothing_outstanding()

    def depths(self, queues: Sequence[str], timeout_s: float) -> dict[str, int]:
        """Ready messages per queue; see the port."""
        names = [queue for queue in queues if carries_queue(queue)]
        if not names:
            return dict.fromkeys(queues, 0)
        deadline = time.monotonic() + timeout_s
        self._connection.tried.wait(timeout_s)
        survey = Survey(self._connection, names)
        if not self._connection.call(survey.start) or not survey.done.wait(deadline - time.monotonic()):
            raise BrokerUnavailableError(f"RabbitMQ did not tell the depth of {len(names)} queues in {timeout_s:g} s")
        return dict.fromkeys(queues, 0) | survey.answers

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush within the time, then close."""
        deadline = time.monotonic() + timeout_s
        if self._buffer or self._connection.is_open:
            # A process that ends as soon as it has enqueued is not connected yet.
            self._connection.tried.wait(timeout_s)
        if self._connection.is_open:
            self.flush(max(0.0, deadline - time.monotonic()))
        self._connection.close(max(1.0, deadline - time.monotonic()))
        self._losses.note(len(self._buffer), "closed before they were written")
        self._losses.say_rest()
        if self._on_closed is not None:
            self._on_closed()

    def _nothing_outstanding(self) -> bool:
        return not self._buffer and not self._unconfirmed and not self._declaring

    # -- the connection's thread ---------------------------------------------------------------------------------
    def connected(self) -> None:
        """Open a channel in confirm mode."""
        self._connection.channel(self._channel_open)

    def disconnected(self) -> None:
        """What was not confirmed is the relay's now."""
        with self._settled:
            lost = len(self._unconfirmed) + sum(len(waiting) for waiting in self._declaring.values())
            self._channel = None
            self._framer = None
            if self._unconfirmed:
                metrics().unconfirmed.dec(len(self._unconfirmed))
            self._unconfirmed.clear()
            self._unconfirmed_bytes = 0
            self._returned.clear()
            self._declaring.clear()
            self._declared.clear()
            self._scheduled = False
            self._settled.notify_all()
        self._losses.note(lost, "connection lost before their confirms")

    def _channel_open(self, channel: Channel) -> None:
        self._next_tag = 1
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._ready(channel))

    def _ready(self, channel: Channel) -> None:
        self._losses.say_rest()
        self._channel = channel
        self._framer = Framer(channel.channel_number, channel.connection.params.frame_max)
        with self._lock:
            self._scheduled = True
        self._drain()

    def _channel_closed(self, channel: Channel, reason: Exception) -> None:
        if channel is self._channel:
            if not isinstance(reason, ChannelClosedByClient):  # our own close at the end is no loss
                log.warning(events.BROKER_DISCONNECTED, error=repr(reason), what="publisher channel")
            self.disconnected()
            if isinstance(reason, ChannelClosedByBroker):  # else the connection is going too, and comes back by itself
                self.connected()

    def _drain(self) -> None:
        """Write what is buffered, as far as the window allows."""
        channel, framer = self._channel, self._framer
        if channel is None or framer is None or not channel.is_open:
            with self._lock:
                self._scheduled = False
            return
        with self._lock:
            batch: list[Outgoing] = []
            room = _WINDOW - len(self._unconfirmed)
            while self._buffer and len(batch) < room and self._unconfirmed_bytes < _WINDOW_BYTES:
                message = self._buffer.popleft()
                self._buffered_bytes -= len(message.body)
                if self._is_declared(message):
                    batch.append(message)
                    self._unconfirmed_bytes += len(message.body)
            if not self._buffer:
                self._scheduled = False
            self._unconfirmed.update(enumerate(batch, self._next_tag))
            self._next_tag += len(batch)
        if batch:
            metrics().unconfirmed.inc(len(batch))
            write(channel.connection, framer.encode(batch))

    def _is_declared(self, message: Outgoing) -> bool:
        """Whether the queue is known to exist; else the message waits for its declaration."""
        queue = message.queue
        if queue in self._declared:
            return True
        waiting = self._declaring.get(queue)
        if waiting is not None:
            waiting.append(message)
        else:
            self._declaring[queue] = [message]
            self._connection.declare(
                queue, lambda: self._queue_exists(queue), failed=lambda reason: self._queue_refused(queue, reason)
            )
        return False

    def _queue_refused(self, queue: str, reason: str) -> None:
        """What waits for this queue is the relay's, so that it does not hold up the others."""
        with self._settled:
            dropped = len(self._declaring.pop(queue, ()))
            self._scheduled = True
            self._settled.notify_all()
        self._losses.note(dropped, f"queue {queue} cannot be had: {reason}")
        self._drain()

    def _queue_exists(self, queue: str) -> None:
        with self._lock:
            self._declared.add(queue)
            waiting = self._declaring.pop(queue, [])
            self._buffer.extendleft(reversed(waiting))
            self._buffered_bytes += sum(len(message.body) for message in waiting)
            self._scheduled = True
        self._drain()

    def _on_return(self, _channel: Channel, _method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        """Unroutable: its confirm follows, but it is in no queue. The queue is declared anew next time."""
        with self._lock:
            self._returned.add(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        confirmed = isinstance(method, Basic.Ack)
        with self._settled:
            settled = self._take(method.delivery_tag, multiple=method.multiple)
            good = [message for message in settled if confirmed and message.id not in self._returned]
            for message in settled:
                if message.id in self._returned:
                    self._returned.discard(message.id)
                    self._declared.discard(message.queue)
            self._unconfirmed_bytes -= sum(len(message.body) for message in settled)
            metrics().unconfirmed.dec(len(settled))
            free = len(self._unconfirmed) <= _WINDOW // 2 and self._unconfirmed_bytes <= _WINDOW_BYTES // 2
            more = bool(self._buffer) and free
            if more:
                self._scheduled = True
            self._settled.notify_all()
        if len(good) < len(settled):
            reason = "returned as unroutable" if confirmed else "refused by the broker"
            self._losses.note(len(settled) - len(good), reason)
        if good:
            self._on_confirmed(good)
        if more:
            self._drain()

    def _take(self, tag: int, *, multiple: bool) -> list[Outgoing]:
        if not multiple:
            message = self._unconfirmed.pop(tag, None)
            return [message] if message is not None else []
        settled = []
        while self._unconfirmed and next(iter(self._unconfirmed)) <= tag:
            settled.append(self._unconfirmed.popitem(last=False)[1])
        return settled
