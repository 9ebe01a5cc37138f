"""How fast workers drain no-op jobs: tracked on PostgreSQL, against stock Dramatiq, untracked, on the same RabbitMQ.

Each run fills a queue, starts workers and counts from the first job's start to the last one's end; Playbill's end is
the commit in the store. Runs alternate, so that a change of the machine's speed meets all of them.

    python bench/drain.py [--jobs 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

import playbill
import servers
from playbill import client
from playbill.settings import Settings

HERE = Path(__file__).resolve().parent


def playbill_rate(jobs: int, processes: int) -> float:
    """Tracked jobs a second."""
    queue = servers.fresh_queue()
    with servers.fresh_settings() as settings:
        os.environ["BENCH_QUEUE"] = queue
        runtime = client.configure(settings)
        import noops

        actor = noops.declare(queue)
        playbill.enqueue_many([actor.message(number) for number in range(jobs)])
        publisher = runtime.broker.publisher
        assert publisher is not None
        if not publisher.flush(60):
            raise RuntimeError("not everything was confirmed")
        client.reset()
        rate = _drain(settings, queue, jobs, processes)
    servers.delete_queue(queue)
    return rate


def _drain(settings: Settings, queue: str, jobs: int, processes: int) -> float:
    """Run workers until the archive holds all jobs; times are the database's."""
    environment = {
        **os.environ,
        "PLAYBILL_STORE_URL": settings.store_url.get_secret_value(),
        "PLAYBILL_BROKER_URL": settings.broker_url.get_secret_value() if settings.broker_url else "",
        "PLAYBILL_LOG_LEVEL": "error",
        "BENCH_QUEUE": queue,
    }
    code = (
        "from playbill.settings import load; from playbill.worker.supervisor import run_workers; import sys;"
        f"sys.exit(run_workers(load(), queues={{{queue!r}: 1}}, modules=['noops_bound'],"
        f" processes={processes}, threads=8))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=HERE)
    url = settings.store_url.get_secret_value()
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            while True:
                done, seconds = connection.execute(
                    "SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at)) FROM playbill.jobs_archive"
                ).fetchone() or (0, 0)
                if done >= jobs:
                    return jobs / float(seconds)
                if worker.poll() is not None:
                    raise RuntimeError("the worker ended")
                time.sleep(0.2)
    finally:
        worker.terminate()
        worker.wait(30)


def stock_rate(jobs: int, processes: int, prefetch: int) -> float:
    """Untracked jobs a second of stock Dramatiq."""
    queue = servers.fresh_queue()
    environment = {**os.environ, "BENCH_QUEUE": queue, "BENCH_URL": servers.url_of("rabbitmq")}
    if prefetch:
        environment["dramatiq_queue_prefetch"] = str(prefetch)
    script = str(HERE / "stock_worker.py")
    subprocess.run([sys.executable, script, "fill", str(jobs)], env=environment, check=True)
    workers = [
        subprocess.Popen([sys.executable, script, "drain"], env=environment, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    spans = [json.loads(worker.communicate(timeout=300)[0]) for worker in workers]
    servers.delete_queue(queue)
    done = sum(span["count"] for span in spans)
    if done < jobs:
        raise RuntimeError(f"stock ran {done} of {jobs}")
    busy = [span for span in spans if span["count"]]
    return jobs / (max(span["last"] for span in busy) - min(span["first"] for span in busy))


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for processes in (1, 2):
        kinds: dict[str, Callable[[], float]] = {
            "stock as it comes": lambda n=processes: stock_rate(arguments.jobs, n, 0),
            "stock, prefetch 200": lambda n=processes: stock_rate(arguments.jobs, n, 200),
            "playbill, tracked": lambda n=processes: playbill_rate(arguments.jobs, n),
        }
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(arguments.rounds):
            for name, run in kinds.items():
                rates[name].append(run())
        base = statistics.median(rates["stock as it comes"])
        tuned = statistics.median(rates["stock, prefetch 200"])
        for name, values in rates.items():
            middle = statistics.median(values)
            rows.append((f"{processes} x 8  {name}", f"{middle:,.0f}", middle / base, middle / tuned))
    servers.show("No-op jobs a second, medians", ("workers", "jobs/s", "x stock", "x prefetch 200"), rows)


if __name__ == "__main__":
    main()
