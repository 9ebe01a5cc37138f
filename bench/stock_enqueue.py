"""Stock Dramatiq with confirms, for comparison: prints messages a second. Arguments: threads, messages."""

from __future__ import annotations

import os
import sys
import threading
import time

import dramatiq

from stock_worker import QUEUE, broker


def main() -> None:
    """Entry point."""
    threads, jobs = int(sys.argv[1]), int(sys.argv[2])
    broker(confirm=True)

    @dramatiq.actor(queue_name=QUEUE)
    def noop(number: int) -> None:
        """Do nothing."""

    noop.send(0)
    ready = threading.Barrier(threads + 1)

    def work() -> None:
        noop.send(0)  # the thread's own connection
        ready.wait()
        for number in range(jobs // threads):
            noop.send(number)
        done.release()
        closing.wait()

    done, closing = threading.Semaphore(0), threading.Event()
    runners = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for runner in runners:
        runner.start()
    ready.wait()
    start = time.perf_counter()
    for _ in runners:
        done.acquire()
    sys.stdout.write(str(jobs / (time.perf_counter() - start)))
    sys.stdout.flush()
    os._exit(0)  # connections of other threads cannot be closed from here


if __name__ == "__main__":
    main()
