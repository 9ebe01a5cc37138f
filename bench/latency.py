"""Start latency: from the call of send to the actor's first line, at a steady 200 jobs a second on RabbitMQ.

python bench/latency.py [--rate 200] [--seconds 15]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg

import servers
from playbill import client

HERE = Path(__file__).resolve().parent
WARM_UP_S = 3.0


def main() -> None:
    """Run and print the percentiles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    queue = servers.fresh_queue()
    with servers.fresh_settings() as settings:
        url = settings.store_url.get_secret_value()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE starts (sent float8, started float8)")
        os.environ |= {
            "PLAYBILL_STORE_URL": url,
            "PLAYBILL_BROKER_URL": servers.url_of("rabbitmq"),
            "PLAYBILL_LOG_LEVEL": "error",
            "BENCH_QUEUE": queue,
            "BENCH_STARTS": url,
        }
        client.configure(settings)
        import stamped

        code = (
            "from playbill.settings import load; from playbill.worker.supervisor import run_workers;"
            f"run_workers(load(), queues={{{queue!r}: 1}}, modules=['stamped'], processes=1, threads=8)"
        )
        worker = subprocess.Popen([sys.executable, "-c", code], cwd=HERE)
        stamped.stamp.send(time.time())
        count = _send(stamped, arguments.rate, arguments.seconds + WARM_UP_S)
        latencies = _collect(url, count + 1)
        worker.terminate()
        worker.wait(30)
        client.reset()
    servers.delete_queue(queue)
    rows = [(f"p{share}", f"{_percentile(latencies, share):.1f}") for share in (50, 90, 99)]
    servers.show(f"Start latency at {arguments.rate} jobs a second", ("percentile", "ms"), rows)


def _send(stamped: object, rate: int, seconds: float) -> int:
    count, begin = int(rate * seconds), time.time()
    for number in range(count):
        pause_s = begin + number / rate - time.time()
        if pause_s > 0:
            time.sleep(pause_s)
        stamped.stamp.send(time.time())  # type: ignore[attr-defined]
    return count


def _collect(url: str, wanted: int) -> list[float]:
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT count(*) FROM starts").fetchone() != (wanted,):
            time.sleep(0.1)
        rows = connection.execute("SELECT sent, started FROM starts ORDER BY sent").fetchall()
    first = rows[0][0] + WARM_UP_S
    return sorted((started - sent) * 1000 for sent, started in rows if sent >= first)


def _percentile(values: list[float], share: int) -> float:
    return values[min(len(values) - 1, len(values) * share // 100)]


if __name__ == "__main__":
    main()
