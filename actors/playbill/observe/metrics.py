"""Prometheus metrics: what exists, in which unit, and a cheap way to count the jobs of a finish group.

Nothing of ``prometheus_client`` is imported before ``metrics()`` is first called, because it chooses between one
process and several (``PROMETHEUS_MULTIPROC_DIR``) at its import. A supervisor calls ``use_directory`` before that.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from playbill.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"

#: From the cost of an empty job to the length of a nightly one.
RUN_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
#: Around the target latencies of the tiers: 1, 5, 30 and 300 s.
WAIT_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
BATCH_BUCKETS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500)


class FinishedJob(Protocol):
    """What is counted of an ended attempt; ``playbill.store.values.Finish`` is one."""

    @property
    def queue(self) -> str:
        """Name of the queue."""

    @property
    def actor(self) -> str:
        """Name of the actor."""

    @property
    def outcome(self) -> str:
        """How the attempt ended."""

    @property
    def run_ms(self) -> float:
        """From start to end, ms."""

    @property
    def wait_ms(self) -> float:
        """From due to start, ms."""


class Metrics:
    """The metrics of one process.

    Attributes name the metric without its prefix: ``finished`` is ``playbill_jobs_finished_total`` and so on; the
    helps below are the documentation. Get the process's one by ``metrics()``; a registry of one's own is for tests.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"playbill_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = (), mode: Any = "livesum") -> Gauge:
            return Gauge(f"playbill_{name}", text, labels, registry=registry, multiprocess_mode=mode)

        def histogram(name: str, text: str, labels: Iterable[str], buckets: Iterable[float]) -> Histogram:
            return _histogram_class()(f"playbill_{name}", text, labels, registry=registry, buckets=tuple(buckets))

        job = ("queue", "actor")
        self.finished = counter("jobs_finished_total", "Ended attempts by outcome.", (*job, "outcome"))
        self.run = histogram("job_run_seconds", "Time from start to end of an attempt, seconds.", job, RUN_BUCKETS_S)
        self.wait = histogram("job_wait_seconds", "Time from due to start, seconds.", ("queue",), WAIT_BUCKETS_S)
        self.running = gauge("jobs_running", "Attempts running now.", ("queue",))
        self.claims = counter("claims_total", "Claims sent to the store.")
        self.batch_size = histogram("finish_batch_size", "Attempts ended in one commit.", (), BATCH_BUCKETS)
        self.store_errors = counter("store_errors_total", "Calls to the store that failed.")
        self.unconfirmed = gauge("publisher_unconfirmed", "Published messages the broker has not confirmed yet.")

        self._shown: dict[int, set[tuple[str, ...]]] = {}  # labels of each gauge that `show_queues` has set
        self.leader = gauge("leader", "1 while this scheduler leads, else 0.", mode="livemax")
        self.relayed = counter("relayed_total", "Messages published by the relay for want of a confirm.")
        self.released = counter("released_total", "Jobs that became due and were handed over.")
        self.missing = counter("missing_republished_total", "Messages the broker had lost, published again.")
        self.rescued = counter("rescued_total", "Jobs taken back from dead workers.", ("outcome",))
        self.expired = counter("expired_total", "Jobs failed because they waited longer than their queue's maxAge.")
        self.purged = counter("purged_total", "Ended jobs removed by retention.")
        self.task_errors = counter("scheduler_task_errors_total", "Failed runs of scheduler tasks.", ("task",))
        self.queue_jobs = gauge("queue_jobs", "Jobs by status.", ("queue", "status"), "livemostrecent")
        self.queue_oldest = gauge(
            "queue_oldest_waiting_seconds",
            "Age of the oldest job that could run now, seconds.",
            ("queue",),
            "livemostrecent",
        )

    def observe_finished(self, batch: Iterable[FinishedJob]) -> None:
        """Count the attempts ended by one commit.

        About 1 us a job from batches of a hundred on: values are sorted into buckets first and each counter is
        touched once a batch, which matters in several processes, where each touch writes to a mapped file.
        """
        outcomes: Tally[tuple[str, str, str]] = Tally()
        runs: dict[tuple[str, str], list[float]] = {}
        waits: dict[str, list[float]] = {}
        size = 0
        for job in batch:
            size += 1
            key = (job.queue, job.actor)
            outcomes[*key, job.outcome] += 1
            runs.setdefault(key, []).append(job.run_ms / 1000.0)
            waits.setdefault(job.queue, []).append(job.wait_ms / 1000.0)
        if not size:
            return
        for labels, count in outcomes.items():
            self.finished.labels(*labels).inc(count)
        for job_labels, values in runs.items():
            observe_many(self.run.labels(*job_labels), values)
        for queue, values in waits.items():
            observe_many(self.wait.labels(queue), values)
        self.batch_size.observe(size)

    def show_queues(self, jobs: Mapping[tuple[str, str], int], oldest_s: Mapping[str, float]) -> None:
        """Show the figures of all queues; what is not named any more is shown as 0 (several processes) or not at all.

        Args:
            jobs: Count by (queue, status).
            oldest_s: Age of the oldest waiting job by queue, seconds.
        """
        self._replace(self.queue_jobs, {(queue, status): count for (queue, status), count in jobs.items()})
        self._replace(self.queue_oldest, {(queue,): age for queue, age in oldest_s.items()})

    def _replace(self, gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        several_processes = MULTIPROCESS_VARIABLE in os.environ
        shown = self._shown.setdefault(id(gauge), set())
        for labels in shown - values.keys():
            if several_processes:  # where prometheus_client cannot remove
                gauge.labels(*labels).set(0)
            else:
                gauge.remove(*labels)
                shown.discard(labels)
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
            shown.add(labels)


def observe_many(histogram: Histogram, values: Iterable[float]) -> None:
    """Observe several values of one histogram, touching each bucket once."""
    histogram.observe_many(values)  # type: ignore[attr-defined]


_lock = threading.Lock()
_metrics: Metrics | None = None
_histogram: type[Histogram] | None = None


def metrics() -> Metrics:
    """The metrics of this process, made at the first call.

    They are in Prometheus's default registry, so that the metrics of user code are served beside them.
    """
    global _metrics  # noqa: PLW0603 - one per process, as the registry is
    if _metrics is None:
        with _lock:
            if _metrics is None:
                from prometheus_client import REGISTRY

                _metrics = Metrics(REGISTRY)
    return _metrics


def use_directory(directory: Path) -> None:
    """Let the metrics of several processes meet in a directory: for a supervisor, before it starts its children.

    Args:
        directory: Emptied of an earlier run's files; made where it is missing.

    Raises:
        ConfigurationError: ``prometheus_client`` was imported before, so it has already chosen one process.
    """
    if "prometheus_client.values" in sys.modules:
        raise ConfigurationError(
            f"prometheus_client was imported before {MULTIPROCESS_VARIABLE} could be set; import it later, or set the"
            " variable in the environment"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for left_over in directory.glob("*.db"):
        left_over.unlink()
    os.environ[MULTIPROCESS_VARIABLE] = str(directory)


def forget_process(pid: int) -> None:
    """A child has ended: its live gauges go, its counters are kept. Does nothing with a single process."""
    if MULTIPROCESS_VARIABLE in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """All metrics as text (``CONTENT_TYPE``); of all processes where they share a directory."""
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

    metrics()
    if MULTIPROCESS_VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    shared = CollectorRegistry()
    multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    return generate_latest(shared)


def _histogram_class() -> type[Histogram]:
    """The histogram with ``observe_many``; made late, because its base is imported late."""
    global _histogram  # noqa: PLW0603
    if _histogram is None:
        from prometheus_client import Histogram

        class BatchHistogram(Histogram):
            """Reaches into its base's buckets (prometheus_client 0.x); a test holds it against ``observe``."""

            def observe_many(self, values: Iterable[float]) -> None:
                counts: Tally[int] = Tally()
                total = 0.0
                for value in values:
                    counts[bisect_left(self._upper_bounds, value)] += 1
                    total += value
                self._sum.inc(total)
                for bucket, count in counts.items():
                    self._buckets[bucket].inc(count)

        _histogram = BatchHistogram
    return _histogram
