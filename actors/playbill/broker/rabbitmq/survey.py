"""Asks RabbitMQ how many messages wait in its queues."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from playbill.broker.rabbitmq.connection import ConnectionThread

_QUESTIONS = 64  #: questions that are open at once
_NOT_FOUND = 404


class Survey:
    """Asks for the depth of queues; a missing queue closes the channel, so each question has one of its own.

    Args:
        connection: The connection.
        queues: Which.
    """

    def __init__(self, connection: ConnectionThread, queues: Sequence[str]) -> None:
        self._connection = connection
        self._left = list(dict.fromkeys(queues))
        self._wanted = len(self._left)
        self.answers: dict[str, int] = {}
        self.done = threading.Event()

    def start(self) -> None:
        """Begin, a few questions at a time (the server limits channels)."""
        for _ in range(min(_QUESTIONS, self._wanted)):
            self._ask_next()

    def _ask_next(self) -> None:
        if self._left:
            queue = self._left.pop()
            self._connection.channel(lambda channel: self._ask(channel, queue))

    def _ask(self, channel: Channel, queue: str) -> None:
        def told(frame: Any) -> None:
            channel.close()
            self._answer(queue, frame.method.message_count)

        def closed(_: Channel, reason: Exception) -> None:
            # Any other end is no answer: an error is never a zero.
            if isinstance(reason, ChannelClosedByBroker) and reason.reply_code == _NOT_FOUND:
                self._answer(queue, 0)

        channel.add_on_close_callback(closed)
        channel.queue_declare(queue, passive=True, callback=told)

    def _answer(self, queue: str, count: int) -> None:
        self.answers[queue] = count
        if len(self.answers) == self._wanted:
            self.done.set()
        else:
            self._ask_next()
