"""SQLite: workers that die, and a disk that fills up."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from playbill.errors import StoreError
from tests.faults.stage import Stage

pytestmark = pytest.mark.slow


def test_workers_killed_at_random_moments_lose_nothing(embedded):
    # Given
    embedded.start_scheduler()
    workers = embedded.start_workers()
    embedded.enqueue_mix(60)
    embedded.await_started(5)
    # When
    for _ in range(3):
        time.sleep(embedded.random.uniform(0, 0.3))
        for child in workers.children()[:1]:
            child.kill()
        embedded.enqueue_mix(10)
    # Then
    embedded.settle()


def test_workers_killed_with_their_supervisor_are_rescued_when_their_lease_ends(embedded):
    # Given
    embedded.start_scheduler()
    workers = embedded.start_workers()
    embedded.enqueue_mix(80)
    embedded.await_started(10)
    # When
    workers.kill_group()
    embedded.start_workers()
    # Then
    embedded.settle()


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that: a full disk that needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_enqueue_that_does_not_fit_is_refused_as_a_whole(embedded):
    # Given
    accepted = embedded.enqueue_mix(20)
    wal = Path(embedded.store.database.url.database + "-wal")
    # When: there is no room
    with files_limited_to(wal.stat().st_size + 4096):
        for _ in range(5):
            assert embedded.enqueue_mix(3) == []
    # Then: the errors say so, nothing was half-written, and work goes on once there is room
    assert all("cannot" in str(error) or "full" in str(error) for error in embedded.refused)
    assert {row.id for row in embedded.store_rows()} == set(accepted)
    embedded.start_scheduler()
    embedded.start_workers()
    embedded.enqueue_mix(10)
    embedded.settle()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own can be mounted by root alone; the test above needs no rights")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take up all room that is left."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def test_a_disk_that_fills_up_under_load_delays_work_and_loses_none(small_disk, tmp_path, stages, seed):
    # Given: workers at work
    stage = Stage(tmp_path, store_url=f"sqlite:///{small_disk}/store.db", broker_url=None, queue="faults", seed=seed)
    stages.append(stage)
    stage.start_scheduler()
    stage.start_workers()
    stage.enqueue_mix(60)
    stage.await_started(10)
    # When: the disk is full for some heartbeats
    ballast = fill(small_disk)
    deadline = time.monotonic() + 20
    while not stage.refused and time.monotonic() < deadline:
        stage.enqueue_any()
    time.sleep(stage.random.uniform(0.5, 2.0))
    ballast.unlink()
    # Then: it was said clearly, and nothing is lost
    assert stage.refused
    assert all(isinstance(error, StoreError) and "full" in str(error) for error in stage.refused)
    stage.enqueue_mix(10)
    stage.settle()
