"""One connection to RabbitMQ in a thread of its own: connects, reconnects with backoff, runs callbacks.

Publisher and intake each have one. All AMQP happens in the thread; others hand it callables with :meth:`call`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker

from playbill.broker.rabbitmq.parameters import parse_url, turns
from playbill.broker.rabbitmq.quiet import quieten_pika
from playbill.broker.rabbitmq.topology import parking_arguments, parking_queue, queue_arguments
from playbill.observe import events
from playbill.observe.log import get_logger

log = get_logger(__name__)

_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
_NOT_FOUND = 404
_ANSWER_S = 10.0  #: how long the server may take to answer a request about a queue
_FAREWELL_S = 2.0  #: how long the server may take to answer a close


class Listener(Protocol):
    """What the owner of a connection is told, in the connection's thread."""

    def connected(self) -> None:
        """The connection is open."""

    def disconnected(self) -> None:
        """The connection is gone or could not be made; it is tried again unless closed."""


class ConnectionThread:
    """Keeps one connection open.

    Args:
        url: The broker's URL.
        name: Name of the thread.
        listener: Told of changes.
    """

    def __init__(self, url: str, name: str, listener: Listener) -> None:
        quieten_pika()
        self._parameters = parse_url(url)
        self._listener = listener
        self._connection: SelectConnection | None = None
        self._attempts = 0
        self._closing = threading.Event()
        self.tried = threading.Event()  #: set once the first attempt to connect is over
        #: Guards what another thread may touch of a connection: its loop is not closed under a call.
        self._guard = threading.Lock()
        self._open = False
        self.blocked = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self._open

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_down(self) -> bool:
        """Whether the connection was lost or could not be made, and is not there again."""
        return self.tried.is_set() and not self._open

    def in_thread(self) -> bool:
        """Whether the caller is the connection's own thread."""
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[[], None]) -> bool:
        """Run a callable in the connection's thread; False (not run) where the connection is down."""
        with self._guard:
            if self._connection is None or not self._open:
                return False
            self._connection.ioloop.add_callback_threadsafe(callback)
            return True

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run a callable after a delay; only from the connection's thread."""
        if self._connection is not None:
            self._connection.ioloop.call_later(delay_s, callback)

    def expect(self, done: Callable[[], bool], what: str) -> None:
        """Make the connection anew unless ``done()`` is true after a while; only from the connection's thread.

        A server that was killed and is starting may take a request for a quorum queue and never answer it.
        """
        connection = self._connection

        def look() -> None:
            if connection is not None and connection is self._connection and not done():
                log.warning(events.BROKER_DISCONNECTED, thread=self._thread.name, error=f"no answer to {what}")
                _abort(connection)

        self.later(_ANSWER_S, look)

    def channel(self, on_open: Callable[[Channel], None]) -> None:
        """Open a channel; only from the connection's thread. Does nothing where the connection is down.

        Its channels hear of a lost connection before we do, hence the connection's own word.
        """
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=on_open)

    def declare(
        self, queue: str, done: Callable[[], None], *, failed: Callable[[str], None], create: bool = True
    ) -> None:
        """Make sure that a queue exists; only from the connection's thread.

        The passive declaration closes its channel where the queue is missing, so each has a channel of its own.

        Args:
            queue: Its name.
            done: Called once it exists.
            failed: Called with the reason where the server refuses; not where the connection is lost.
            create: Whether a missing queue is made.
        """
        answered: list[str] = []

        def probe(channel: Channel) -> None:
            def closed(_: Channel, reason: Exception) -> None:
                answered.append(queue)
                if not isinstance(reason, ChannelClosedByBroker):
                    return
                if create and reason.reply_code == _NOT_FOUND:
                    self._create(queue, done, failed)
                else:
                    failed(str(reason))

            def exists(_: Any) -> None:
                channel.close()
                done()

            channel.add_on_close_callback(closed)
            channel.queue_declare(queue, passive=True, callback=exists)

        self.channel(probe)
        self.expect(lambda: bool(answered), f"the declaration of {queue}")

    def _create(self, queue: str, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        def make(channel: Channel) -> None:
            def closed(_: Channel, reason: Exception) -> None:
                # Somebody made it otherwise in the meantime, or we may not: what exists is found at the next try.
                if isinstance(reason, ChannelClosedByBroker):
                    failed(str(reason))

            def parking_made(_: Any) -> None:
                channel.queue_declare(queue, durable=True, arguments=queue_arguments(queue), callback=made)

            def made(_: Any) -> None:
                channel.close()
                done()

            channel.add_on_close_callback(closed)
            channel.queue_declare(
                parking_queue(queue), durable=True, arguments=parking_arguments(), callback=parking_made
            )

        self.channel(make)

    def close(self, timeout_s: float) -> None:
        """Close the connection and end the thread."""
        self._closing.set()
        with self._guard:
            if self._connection is not None:
                self._connection.ioloop.add_callback_threadsafe(self._shut)
        if not self.in_thread():
            self._thread.join(timeout_s)

    # -- the thread ----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._connect()
                self._turn()
            except (AMQPError, OSError) as error:
                log.warning(events.BROKER_DISCONNECTED, error=repr(error))
            except Exception:  # whatever it is, this thread must go on: nobody would make another one
                log.exception(events.BROKER_DISCONNECTED, thread=self._thread.name)
            finally:
                self._lost()
            if not self._closing.is_set():
                backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self._attempts, 10))
                self._closing.wait(backoff_s * random.uniform(0.5, 1.0))

    def _turn(self) -> None:
        """Run the loop until the connection has ended, whatever a callback raises."""
        connection = self._connection
        assert connection is not None
        while True:
            try:
                connection.ioloop.start()
            except Exception:
                # Without a close the server would believe in the connection, and hold back what it delivered to it.
                log.exception(events.BROKER_DISCONNECTED, thread=self._thread.name)
                if not connection.is_open:
                    return
                connection.close(320, "an error in the client")
                connection.ioloop.call_later(_FAREWELL_S, partial(_abort, connection))
            else:
                return

    def _connect(self) -> None:
        self._connection = SelectConnection(
            parameters=turns(self._parameters, self._attempts),
            on_open_callback=self._opened,
            on_open_error_callback=self._failed,
            on_close_callback=self._closed,
        )
        self._attempts += 1

    def _opened(self, connection: SelectConnection) -> None:
        self._attempts = 0
        self._open = True
        self.tried.set()
        connection.add_on_connection_blocked_callback(self._blocked)
        connection.add_on_connection_unblocked_callback(self._unblocked)
        log.info(events.BROKER_CONNECTED, thread=self._thread.name)
        if self._closing.is_set():
            self._shut()
        else:
            self._listener.connected()

    def _blocked(self, *_: Any) -> None:
        self.blocked = True
        log.warning(events.BROKER_BLOCKED, thread=self._thread.name)

    def _unblocked(self, *_: Any) -> None:
        self.blocked = False
        log.info(events.BROKER_UNBLOCKED, thread=self._thread.name)

    def _failed(self, connection: SelectConnection, error: Exception | str) -> None:
        log.warning(events.BROKER_DISCONNECTED, thread=self._thread.name, error=_in_words(error))
        connection.ioloop.stop()

    def _closed(self, connection: SelectConnection, reason: Exception) -> None:
        if not self._closing.is_set():
            log.warning(events.BROKER_DISCONNECTED, thread=self._thread.name, error=_in_words(reason))
        connection.ioloop.stop()

    def _lost(self) -> None:
        with self._guard:
            self._open, self.blocked = False, False
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.ioloop.close()
        self.tried.set()
        self._listener.disconnected()

    def _shut(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if connection.is_open:
            connection.close()
            # A server under an alarm does not read, so it would never answer.
            connection.ioloop.call_later(_FAREWELL_S, partial(_abort, connection))
        elif not connection.is_closing:
            connection.ioloop.stop()


def _abort(connection: SelectConnection) -> None:
    """End a connection whose server does not answer: pika has no public way, and a stopped loop leaves the socket."""
    connection._terminate_stream(AMQPConnectionError("the server did not answer"))  # noqa: SLF001


def _in_words(error: Exception | str) -> str:
    """Pika nests the cause of a failed connection."""
    cause = getattr(error, "args", None)
    text = repr(error) if isinstance(error, Exception) else str(error)
    return text if cause else type(error).__name__
