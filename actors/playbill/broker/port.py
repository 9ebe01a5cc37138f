"""What the library asks of a message transport: a publisher and an intake, each one connection per process.

Neither ever decides about a job: the store does. A lost publish is repaired by the scheduler's relay, a duplicate
delivery by the claim's fence, so both sides may drop what they cannot settle, and must never block a caller for long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Message headers by which a worker knows a tracked message. A message without them comes from a plain producer.
HEADER_ID = "playbill-id"
HEADER_EPOCH = "playbill-epoch"


@dataclass(slots=True)
class Outgoing:
    """A tracked message to publish. ``body`` is the encoded Dramatiq message."""

    id: str
    epoch: int
    queue: str
    body: bytes


#: Called with messages that the broker has confirmed, from the transport's thread: must return at once.
OnConfirmed = Callable[[Sequence[Outgoing]], None]


@dataclass(slots=True)
class Delivery:
    """A message as it arrived. ``id`` and ``epoch`` are None for a message of a plain producer.

    ``generation`` names the channel on which ``tag`` is valid: an ack for an older channel is dropped.
    """

    queue: str
    body: bytes
    tag: int
    generation: int
    id: str | None = None
    epoch: int | None = None
    redelivered: bool = False
    headers: Mapping[str, Any] = field(default_factory=dict)


class Publisher(Protocol):
    """Publishes with pipelined confirms (persistent, mandatory), from any thread."""

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Hand messages over and return at once; ``on_confirmed`` (given at construction) hears of the confirmed ones.

        Queues are declared first where needed. Messages that cannot be confirmed (connection lost, returned as
        unroutable, nacked, buffer full while the broker is down) are dropped with one log line: the relay has them.
        """

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is outstanding; False if the time ran out or the connection is down."""

    @property
    def healthy(self) -> bool:
        """Whether the connection is open and not blocked by an alarm of the broker."""

    def depths(self, queues: Sequence[str], timeout_s: float) -> dict[str, int]:
        """Ready messages per queue, by passive declaration; queues that do not exist are 0.

        Raises:
            BrokerUnavailableError: No answer within the time.
        """

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush within the time, then close."""


class Intake(Protocol):
    """Receives messages of several queues on one connection, a channel for each queue, from any thread.

    Reconnects by itself with backoff; deliveries of a lost connection are dropped from the buffer (the broker sends
    them again).
    """

    def open(self, queue: str, prefetch: int, *, create: bool = True) -> None:
        """Declare the queue (passively first) and start to consume it.

        ``create`` False: a missing queue is not made but looked for again every few seconds.
        """

    def take(self, queue: str, limit: int, timeout_s: float) -> list[Delivery]:
        """Up to ``limit`` buffered deliveries; waits for the first one up to ``timeout_s``; empty on time-out."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge, coalesced; those of an older generation are dropped. Returns at once."""

    def set_prefetch(self, queue: str, prefetch: int) -> None:
        """Renew the consumer with another prefetch, if it differs. Returns at once."""

    def suspend(self, queue: str, timeout_s: float = 5.0) -> list[Delivery]:
        """Cancel the consumer, wait until the broker has confirmed that, and return what is still buffered.

        What is returned stays unacknowledged until the caller acks it. Also returns when the connection is lost.
        """

    def resume(self, queue: str) -> None:
        """Consume again after ``suspend``. Returns at once."""

    def reject_to_broker(self, deliveries: Sequence[Delivery]) -> None:
        """Give unclaimed deliveries back to the broker (requeue), for other workers to have at once."""

    @property
    def healthy(self) -> bool:
        """Whether the connection is open."""

    @property
    def alive(self) -> bool:
        """Whether it still tries to be: False only after an error of its own."""

    def close(self) -> None:
        """Close the connection; unacknowledged messages go back to their queues."""
