"""`playbill worker` with modules and queues that do not fit: it says so in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually

Start = Callable[..., subprocess.Popen[bytes]]
DEADLINE_S = 130.0

JOBS = """
import dramatiq

@dramatiq.actor(queue_name="mail")
def send() -> None: ...

@dramatiq.actor(queue_name="pdf")
def render() -> None: ...
"""


def environment(folder: Path) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PLAYBILL_")}
    return bare | {"PLAYBILL_STORE_URL": f"sqlite:///{folder}/store.db"}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def start(tmp_path: Path, log: Path) -> Iterator[Start]:
    """Start a worker of ``shop_jobs`` with these options."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "playbill.cli.main", "worker", *options, "shop_jobs"]
        with log.open("wb") as output:
            started.append(
                subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=output, stderr=output)
            )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_a_module_that_leaves_python_ends_the_worker_with_one_line(start: Start, tmp_path: Path, log: Path) -> None:
    # Given
    (tmp_path / "shop_jobs.py").write_text("raise SystemExit(7)")
    # When
    worker = start("--queue=mail")
    # Then
    assert worker.wait(DEADLINE_S) == 2
    assert log.read_text() == "error: module shop_jobs: cannot be imported: SystemExit: 7\n"


def test_a_queue_that_no_actor_is_at_home_in_is_pointed_out(start: Start, tmp_path: Path, log: Path) -> None:
    # Given
    (tmp_path / "shop_jobs.py").write_text(JOBS)
    # When
    worker = start("--queue=mial", "--queue=pdf")
    # Then
    eventually(lambda: "worker.started" in log.read_text(), deadline_s=DEADLINE_S)
    (warning,) = [line for line in log.read_text().splitlines() if "worker.queue_without_actors" in line]
    assert "mial" in warning
    assert "mail" in warning
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_S) == 0


CONFIGURED = """
import pathlib
import dramatiq, playbill

class Note(dramatiq.Middleware):
    def after_process_message(self, broker, message, *, result=None, exception=None):
        pathlib.Path("noted").write_text(str(result))

playbill.configure(middleware=[Note()], payload_limit_bytes=1000)

@dramatiq.actor(queue_name="mail")
def send(number: int) -> int:
    return number
"""


def test_a_module_that_configures_playbill_itself_runs_with_its_middleware(
    start: Start, tmp_path: Path, log: Path
) -> None:
    # Given
    (tmp_path / "shop_jobs.py").write_text(CONFIGURED)
    worker = start("--queue=mail")
    eventually(lambda: "worker.started" in log.read_text(), deadline_s=DEADLINE_S)
    # When
    enqueue = [sys.executable, "-m", "playbill.cli.main", "enqueue", "shop_jobs:send", "[7]"]
    subprocess.run(enqueue, cwd=tmp_path, env=environment(tmp_path), check=True, capture_output=True)
    # Then
    noted = tmp_path / "noted"
    eventually(lambda: noted.exists() and noted.read_text() == "7", deadline_s=DEADLINE_S)
    assert "configure.settings_ignored" in log.read_text()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_S) == 0
