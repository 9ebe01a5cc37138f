"""Stock Dramatiq for comparison, on a quorum queue: `fill N` enqueues, `drain` runs a worker until the queue is dry."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

QUEUE = os.environ["BENCH_QUEUE"]


class QuorumBroker(RabbitmqBroker):
    """Stock, but for the type of the queue: both sides use the same."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


def broker(*, confirm: bool = False) -> RabbitmqBroker:
    """Stock's broker as the global one."""
    made = QuorumBroker(url=os.environ["BENCH_URL"], confirm_delivery=confirm)
    dramatiq.set_broker(made)
    return made


def main() -> None:
    """Entry point."""
    made = broker()
    span = {"first": 0.0, "last": 0.0, "count": 0}
    lock = threading.Lock()

    @dramatiq.actor(queue_name=QUEUE)
    def noop(number: int) -> None:  # noqa: ARG001 - the argument is part of the message measured
        now = time.time()
        with lock:
            span["first"] = span["first"] or now
            span["last"] = now
            span["count"] += 1

    if sys.argv[1] == "fill":
        for number in range(int(sys.argv[2])):
            noop.send(number)
        made.close()
        return
    worker = dramatiq.Worker(made, worker_threads=8, queues={QUEUE})
    worker.start()
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 2.0 or span["count"] == 0:
        if span["count"] != seen:
            seen, quiet_since = span["count"], time.monotonic()
        if span["count"] == 0 and time.monotonic() - quiet_since > 20.0:
            break
        time.sleep(0.1)
    worker.stop(timeout=5000)
    sys.stdout.write(json.dumps(span))


if __name__ == "__main__":
    main()
