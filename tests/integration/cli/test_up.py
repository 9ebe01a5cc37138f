"""`playbill up` as a shell starts and stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from playbill.settings import Settings
from playbill.store import open_store
from playbill.store.port import Store
from playbill.store.values import JobFilter
from tests.support.waiting import eventually

JOBS = """
import pathlib, time
import dramatiq

@dramatiq.actor(queue_name="mail")
def quick(to: str) -> str:
    return to

@dramatiq.actor(queue_name="reports")
def slow(started: str, go_on: str) -> str:
    pathlib.Path(started).touch()
    while not pathlib.Path(go_on).exists():
        time.sleep(0.02)
    return "done"
"""

QUEUES = """
apiVersion: playbill.dev/v1alpha1
kind: JobQueue
metadata: {name: mail}
spec: {workers: {processes: 2, threads: 2}, retry: {maxAttempts: 7}}
---
apiVersion: playbill.dev/v1alpha1
kind: JobQueue
metadata: {name: reports}
spec: {workers: {drainGrace: 60s, threads: 1}}
"""

ACTIVE = "Background job workers active:"
DEADLINE_S = 130.0


class Up:
    """One `playbill up` with its output in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PLAYBILL_")},
            "PLAYBILL_STORE_URL": f"sqlite:///{folder}/store.db",
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "playbill.cli.main", "up", "-f", "queues.yaml", "shop_jobs"],
                cwd=folder, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def output(self) -> str:
        return self.log.read_text()

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def ready(self) -> None:
        def seen() -> bool:
            assert self.process.poll() is None, self.output()
            lines = self.output().partition(ACTIVE)[2].splitlines()
            return sum(line.startswith("  - ") for line in lines) == 2

        eventually(seen, deadline_s=DEADLINE_S, what="workers active")

    def enqueue(self, actor: str, arguments: str) -> str:
        made = subprocess.run(
            [sys.executable, "-m", "playbill.cli.main", "enqueue", f"shop_jobs:{actor}", arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
        )  # fmt: skip
        return made.stdout.strip()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "shop_jobs.py").write_text(JOBS)
    (tmp_path / "queues.yaml").write_text(QUEUES)
    started = Up(tmp_path)
    yield started
    if started.process.poll() is None:
        family = started.family()
        started.process.kill()
        for child in family:
            if child.is_running():
                child.kill()
    started.process.wait(DEADLINE_S)


@pytest.fixture
def store(up: Up) -> Iterator[Store]:
    opened = open_store(Settings(store_url=up.environment["PLAYBILL_STORE_URL"]))
    yield opened
    opened.close()


def status_is(store: Store, job_id: str, status: str) -> Callable[[], bool]:
    return lambda: [row.status for row in store.find(JobFilter(ids=(job_id,)))] == [status]


def test_up_names_its_queues_stores_their_policy_and_runs_jobs(up: Up, store: Store) -> None:
    up.ready()
    text = up.output()
    assert "  - mail: 2 workers, 4 at once (pid " in text
    assert "  - reports: 1 worker, 1 at once (pid " in text
    policies = store.policies()
    assert {policy.owner for policy in policies.values()} == {"up"}
    assert policies["mail"].spec["retry"] == {"maxAttempts": 7}
    assert {os.getpgid(child.pid) for child in up.family()} == {up.process.pid}  # one process group
    job_id = up.enqueue("quick", '["me"]')
    eventually(status_is(store, job_id, "completed"), deadline_s=DEADLINE_S)


def test_sigterm_stops_all_children_once_running_work_has_finished(up: Up, store: Store, tmp_path: Path) -> None:
    up.ready()
    started, go_on = tmp_path / "started", tmp_path / "go_on"
    job_id = up.enqueue("slow", f'["{started}", "{go_on}"]')
    eventually(started.exists, deadline_s=DEADLINE_S)
    family = up.family()
    assert len(family) == 1 + 2 + 3  # scheduler, two supervisors, three workers
    up.process.send_signal(signal.SIGTERM)
    eventually(lambda: "draining" in up.output(), deadline_s=DEADLINE_S)
    assert up.process.poll() is None  # the job still runs
    go_on.touch()
    assert up.process.wait(DEADLINE_S) == 0, up.output()
    assert status_is(store, job_id, "completed")()
    assert not [child for child in family if child.is_running()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_the_whole_group_drains_it_and_stops_the_scheduler_last(
    up: Up, store: Store, tmp_path: Path, number: signal.Signals
) -> None:
    # Given
    up.ready()
    started, go_on = tmp_path / "started", tmp_path / "go_on"
    job_id = up.enqueue("slow", f'["{started}", "{go_on}"]')
    eventually(started.exists, deadline_s=DEADLINE_S)
    # When
    os.killpg(up.process.pid, number)
    eventually(lambda: "draining" in up.output(), deadline_s=DEADLINE_S)
    go_on.touch()
    # Then
    assert up.process.wait(DEADLINE_S) == 0, up.output()
    assert status_is(store, job_id, "completed")()
    events = [line for line in up.output().splitlines() if "worker." in line or "scheduler." in line]
    assert "scheduler.stopped" in events[-1], events


def test_a_child_that_dies_is_replaced(up: Up, store: Store) -> None:
    up.ready()
    before = {worker.id for worker in store.workers()}
    scheduler = next(child for child in up.family() if "scheduler" in _command(child))
    supervisor = next(child for child in up.family() if "reports" in _command(child))
    scheduler.kill()
    supervisor.kill()

    def replaced() -> bool:
        fresh = [worker for worker in store.workers() if worker.id not in before]
        lines = [line for child in up.family() if (line := _command(child))]
        return any("reports" in worker.queues for worker in fresh) and any("scheduler" in line for line in lines)

    eventually(replaced, deadline_s=DEADLINE_S)
    up.process.send_signal(signal.SIGTERM)
    up.process.wait(DEADLINE_S)
    assert "up.child_ended" in up.output()


def test_children_do_not_outlive_up_when_it_is_killed(up: Up) -> None:
    up.ready()
    family = up.family()
    up.process.kill()
    eventually(lambda: not any(map(_alive, family)), deadline_s=DEADLINE_S, what="children ended")


def test_a_module_that_does_not_import_ends_up_with_one_line(up: Up, tmp_path: Path) -> None:
    up.process.kill()
    up.process.wait(DEADLINE_S)
    (tmp_path / "shop_jobs.py").write_text("raise RuntimeError('no luck')")
    again = Up(tmp_path)
    assert again.process.wait(DEADLINE_S) == 2, again.output()
    (line,) = again.output().splitlines()
    assert line.startswith("error: module shop_jobs: cannot be imported: RuntimeError: no luck")


def _command(process: psutil.Process) -> list[str]:
    """Its command line; empty once it has ended, which may be between any two looks."""
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.NoSuchProcess:
        return []


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
