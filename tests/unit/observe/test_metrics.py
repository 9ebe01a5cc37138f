from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from playbill.errors import ConfigurationError
from playbill.observe import metrics


@dataclass(frozen=True)
class Ended:
    queue: str = "email"
    actor: str = "send"
    outcome: str = "completed"
    run_ms: float = 20.0
    wait_ms: float = 3.0


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def sut(registry):
    return metrics.Metrics(registry)


def test_a_batch_is_counted_by_queue_actor_and_outcome(sut, registry):
    sut.observe_finished([Ended(), Ended(), Ended(outcome="failed"), Ended(queue="pdf", actor="render")])

    def finished(queue, actor, outcome):
        return registry.get_sample_value(
            "playbill_jobs_finished_total", {"queue": queue, "actor": actor, "outcome": outcome}
        )

    assert finished("email", "send", "completed") == 2
    assert finished("email", "send", "failed") == 1
    assert finished("pdf", "render", "completed") == 1
    assert registry.get_sample_value("playbill_finish_batch_size_count") == 1
    assert registry.get_sample_value("playbill_finish_batch_size_sum") == 4


def test_times_are_in_seconds(sut, registry):
    sut.observe_finished([Ended(run_ms=1500.0, wait_ms=250.0)])

    assert registry.get_sample_value("playbill_job_run_seconds_sum", {"queue": "email", "actor": "send"}) == 1.5
    assert registry.get_sample_value("playbill_job_wait_seconds_sum", {"queue": "email"}) == 0.25


def test_an_empty_batch_counts_nothing(sut, registry):
    sut.observe_finished([])

    assert registry.get_sample_value("playbill_finish_batch_size_count") == 0


@given(st.lists(st.floats(min_value=0, max_value=1e6), max_size=50))
def test_many_at_once_equals_one_by_one(values):
    registry = CollectorRegistry()
    sut = metrics.Metrics(registry)
    reference = Histogram("reference", "x", registry=registry, buckets=metrics.WAIT_BUCKETS_S)
    for value in values:
        reference.observe(value)
    metrics.observe_many(sut.wait.labels("q"), values)

    for bound in (*metrics.WAIT_BUCKETS_S, "+Inf"):
        le = str(float(bound)) if bound != "+Inf" else bound
        assert registry.get_sample_value(
            "playbill_job_wait_seconds_bucket", {"queue": "q", "le": le}
        ) == registry.get_sample_value("reference_bucket", {"le": le})
    assert registry.get_sample_value("playbill_job_wait_seconds_sum", {"queue": "q"}) == pytest.approx(sum(values))


def test_a_queue_that_is_gone_is_not_shown_any_more(sut, registry):
    sut.show_queues({("a", "pending"): 3, ("b", "failed"): 1}, {"a": 2.5})
    sut.show_queues({("b", "failed"): 2}, {})

    assert registry.get_sample_value("playbill_queue_jobs", {"queue": "a", "status": "pending"}) is None
    assert registry.get_sample_value("playbill_queue_jobs", {"queue": "b", "status": "failed"}) == 2
    assert registry.get_sample_value("playbill_queue_oldest_waiting_seconds", {"queue": "a"}) is None


def test_the_documented_names_exist(registry):
    metrics.Metrics(registry)

    names = {metric.name for metric in registry.collect()}
    assert {
        "playbill_jobs_finished",
        "playbill_job_run_seconds",
        "playbill_job_wait_seconds",
        "playbill_jobs_running",
        "playbill_claims",
        "playbill_finish_batch_size",
        "playbill_store_errors",
        "playbill_publisher_unconfirmed",
        "playbill_leader",
        "playbill_relayed",
        "playbill_released",
        "playbill_missing_republished",
        "playbill_rescued",
        "playbill_expired",
        "playbill_purged",
        "playbill_scheduler_task_errors",
        "playbill_queue_jobs",
        "playbill_queue_oldest_waiting_seconds",
    } <= names


def test_the_directory_must_be_named_before_the_first_import(tmp_path):
    with pytest.raises(ConfigurationError, match="PROMETHEUS_MULTIPROC_DIR"):
        metrics.use_directory(tmp_path)


SUPERVISOR = """
import os, subprocess, sys
from pathlib import Path
from playbill.observe import metrics

directory = Path(sys.argv[1])
metrics.use_directory(directory)
child = '''
from types import SimpleNamespace
from playbill.observe.metrics import metrics
job = SimpleNamespace(queue="q", actor="a", outcome="completed", run_ms=2.0, wait_ms=1.0)
metrics().observe_finished([job] * 5)
metrics().running.labels("q").set(3)
metrics().show_queues({("q", "pending"): 4}, {})
metrics().show_queues({}, {})
'''
for _ in range(2):
    process = subprocess.Popen([sys.executable, "-c", child])
    assert process.wait() == 0
before = metrics.exposition().decode()
assert 'playbill_jobs_running{queue="q"} 6.0' in before, before
assert 'playbill_queue_jobs{queue="q",status="pending"} 0.0' in before, before
metrics.forget_process(process.pid)
after = metrics.exposition().decode()
assert 'playbill_jobs_running{queue="q"} 3.0' in after, after
assert 'playbill_jobs_finished_total{actor="a",outcome="completed",queue="q"} 10.0' in after, after
assert 'playbill_job_run_seconds_count{actor="a",queue="q"} 10.0' in after, after
"""


def test_the_processes_of_a_supervisor_are_served_as_one(tmp_path):
    (tmp_path / "counter_1.db").write_bytes(b"left over")
    run = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path("actors").resolve())},
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
