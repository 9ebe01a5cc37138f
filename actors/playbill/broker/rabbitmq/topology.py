"""Queues on RabbitMQ: few, fixed arguments, and none where the queue exists already.

A queue is first declared passively: one that exists is used as it is, whatever its type and arguments, so nothing ever
answers 406 and no management right is needed. One that does not exist becomes a durable quorum queue.
"""

from __future__ import annotations

from typing import Any, Final

#: Deliveries that may fail before a message goes to the parking queue. RabbitMQ's own default of 20 (since 4.0) counts
#: every prefetched message of each lost connection; poison is the store's business here, so the limit is out of reach.
DELIVERY_LIMIT: Final = 1_000_000

_SHORT_STRING_BYTES: Final = 255  #: AMQP 0-9-1, 4.2.5.3


def parking_queue(queue: str) -> str:
    """Where RabbitMQ itself puts messages that reached the delivery limit: visible, consumed by nobody."""
    return f"{queue}.parked"


def carries_id(job_id: str) -> bool:
    """Whether AMQP can carry this id."""
    return _fits(job_id)


def carries_queue(queue: str) -> bool:
    """Whether a queue of this name, and its parking queue, can exist."""
    return _fits(parking_queue(queue))


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= _SHORT_STRING_BYTES
    except UnicodeEncodeError:
        return False


def queue_arguments(queue: str) -> dict[str, Any]:
    """Arguments of a queue that we make."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": parking_queue(queue),
    }


def parking_arguments() -> dict[str, Any]:
    """Arguments of a parking queue."""
    return {"x-queue-type": "quorum"}
