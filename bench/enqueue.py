"""How fast services enqueue: stored and published with confirms, against stock Dramatiq with confirms.

A Playbill enqueue returns when it is committed; the figure counts until every message is confirmed by RabbitMQ too.
Runs alternate, medians are compared.

    python bench/enqueue.py [--jobs 4000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import playbill
import servers
from playbill import client
from playbill.client import Runtime

HERE = Path(__file__).resolve().parent
THREADS = (1, 8, 32)
MANY = 10_000


def in_threads(threads: int, jobs: int, send: Callable[[int], object], after: Callable[[], None]) -> float:
    """Calls a second; ``after`` runs at each thread's end."""

    def work() -> None:
        for number in range(jobs // threads):
            send(number)
        after()

    runners = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return time.perf_counter() - start


def playbill_rate(runtime: Runtime, send: Callable[[int], object], threads: int, jobs: int) -> float:
    """Jobs a second, stored and confirmed."""
    publisher = runtime.broker.publisher
    assert publisher is not None
    start = time.perf_counter()
    in_threads(threads, jobs, send, lambda: None)
    if not publisher.flush(60):
        raise RuntimeError("not everything was confirmed")
    return jobs / (time.perf_counter() - start)


def stock_rate(threads: int, jobs: int) -> float:
    """Messages a second of stock Dramatiq, each confirmed."""
    queue = servers.fresh_queue()
    environment = {**os.environ, "BENCH_QUEUE": queue, "BENCH_URL": servers.url_of("rabbitmq")}
    script = [sys.executable, str(HERE / "stock_enqueue.py"), str(threads), str(jobs)]
    rate = float(subprocess.run(script, env=environment, check=True, capture_output=True).stdout)
    servers.delete_queue(queue)
    return rate


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    queue = servers.fresh_queue()
    with servers.fresh_settings() as settings:
        runtime = client.configure(settings)
        import noops

        actor = noops.declare(queue)
        stock: dict[int, list[float]] = {threads: [] for threads in THREADS}
        ours: dict[int, list[float]] = {threads: [] for threads in THREADS}
        many: list[float] = []
        playbill_rate(runtime, actor.send, 8, 800)  # connections, plans, queue
        for _ in range(arguments.rounds):
            for threads in THREADS:
                stock[threads].append(stock_rate(threads, arguments.jobs))
                ours[threads].append(playbill_rate(runtime, actor.send, threads, arguments.jobs))
            many.append(
                playbill_rate(runtime, lambda _: playbill.enqueue_many([actor.message(n) for n in range(MANY)]), 1, 1)
                * MANY
            )
        client.reset()
    servers.delete_queue(queue)
    rows = []
    for threads in THREADS:
        base, mine = statistics.median(stock[threads]), statistics.median(ours[threads])
        rows.append((f"send from {threads} threads", f"{base:,.0f}", f"{mine:,.0f}", mine / base))
    base = statistics.median(stock[1])
    rows.append(
        (f"enqueue_many of {MANY:,}", f"{base:,.0f}", f"{statistics.median(many):,.0f}", statistics.median(many) / base)
    )
    servers.show(
        "Enqueue, stored and confirmed, jobs a second", ("what", "stock, confirmed", "playbill", "ratio"), rows
    )


if __name__ == "__main__":
    main()
