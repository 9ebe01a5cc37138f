"""The embedded mode: tracked no-op jobs a second on SQLite, claimed straight from the store; and a worker's memory.

python bench/embedded.py [--jobs 20000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

import playbill
import servers
from playbill import client
from playbill.policy.states import JobStatus
from playbill.settings import load
from playbill.store import open_store
from playbill.store.values import JobFilter

HERE = Path(__file__).resolve().parent
MEMORY_JOBS = 100_000


def run(jobs: int, memory_at: tuple[int, ...] = ()) -> tuple[float, list[tuple[int, float]]]:
    """Jobs a second, and (jobs done, resident MB) of the worker process."""
    with tempfile.TemporaryDirectory() as folder:
        queue = servers.fresh_queue()
        settings = load(store_url=f"sqlite:///{folder}/jobs.db", log_level="error")
        os.environ |= {
            "BENCH_QUEUE": queue,
            "PLAYBILL_STORE_URL": settings.store_url.get_secret_value(),
            "PLAYBILL_LOG_LEVEL": "error",
        }
        client.configure(settings)
        import noops

        actor = noops.declare(queue)
        playbill.enqueue_many([actor.message(number).copy(queue_name=queue) for number in range(jobs)])
        client.reset()
        code = (
            "from playbill.settings import load; from playbill.worker.supervisor import run_workers;"
            f"run_workers(load(), queues={{{queue!r}: 1}}, modules=['noops_bound'], processes=1, threads=8)"
        )
        worker = subprocess.Popen([sys.executable, "-c", code], cwd=HERE)
        try:
            return _watch(load(store_url=f"sqlite:///{folder}/jobs.db"), worker.pid, jobs, memory_at)
        finally:
            worker.terminate()
            worker.wait(30)


def _watch(settings: object, supervisor: int, jobs: int, memory_at: tuple[int, ...]) -> tuple[float, list]:
    store = open_store(settings)  # type: ignore[arg-type]
    done_filter = JobFilter(statuses=(JobStatus.COMPLETED,))
    sizes: list[tuple[int, float]] = []
    begin: float | None = None
    first = 0
    while True:
        done = store.count(done_filter)
        if done and begin is None:
            begin, first = time.perf_counter(), done
        children = psutil.Process(supervisor).children()
        while len(sizes) < len(memory_at) and done >= memory_at[len(sizes)] and children:
            sizes.append((done, children[0].memory_info().rss / 1e6))
        if done >= jobs:
            assert begin is not None
            store.close()
            return (jobs - first) / (time.perf_counter() - begin), sizes
        time.sleep(0.05)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=20_000)
    arguments = parser.parse_args()
    rate, _ = run(arguments.jobs)
    servers.show("Embedded, SQLite, 1 x 8", ("what", "figure"), [("tracked no-op jobs a second", f"{rate:,.0f}")])
    _, sizes = run(MEMORY_JOBS, (1_000, 25_000, 50_000, 75_000, MEMORY_JOBS))
    rows = [(f"after {done:,} jobs", f"{size:.0f}") for done, size in sizes]
    servers.show("Resident size of a worker process", ("when", "MB"), rows)


if __name__ == "__main__":
    main()
