"""Servers of their own for the fault suites: they are killed here, so nobody else may use them."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.stage import Stage
from tools import services


def seeds(wanted: str) -> range:
    """``20`` means seeds 1 to 20, ``7-7`` only the seventh: what failed is repeated by its number."""
    first, _, last = wanted.rpartition("-")
    return range(int(first or 1), int(last) + 1)


SEEDS = seeds(os.environ.get("PLAYBILL_TEST_SEEDS", "2"))
#: Makes a stage: stage(seed, **limits).
MakeStage = Callable[..., Stage]

_names = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", SEEDS)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that the servers' own users may enter."""
    path = Path(tempfile.mkdtemp(prefix="playbill-faults-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def own_postgres(folder: Path) -> Iterator[services.PostgresInstance]:
    """The one PostgreSQL of these suites: starting a server takes longer than a test."""
    instance = _start(lambda: services.PostgresInstance(folder / "postgres"), "PostgreSQL")
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def own_rabbit(folder: Path) -> Iterator[services.RabbitInstance]:
    """The one RabbitMQ of these suites."""
    instance = _start(lambda: services.RabbitInstance(folder / "rabbitmq"), "RabbitMQ")
    yield instance
    instance.stop()


@pytest.fixture
def postgres(own_postgres: services.PostgresInstance) -> services.PostgresInstance:
    """A PostgreSQL to be killed; started anew where the last test left it dead."""
    if not own_postgres.running():
        own_postgres.start()
    return own_postgres


@pytest.fixture
def rabbit(own_rabbit: services.RabbitInstance) -> services.RabbitInstance:
    """A RabbitMQ to be killed; started anew where the last test left it dead."""
    if not own_rabbit.running():
        own_rabbit.start()
    return own_rabbit


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    """The stages of a test, closed at its end."""
    made: list[Stage] = []
    yield made
    for stage in made:
        stage.close()


@pytest.fixture
def stage(
    postgres: services.PostgresInstance, rabbit: services.RabbitInstance, tmp_path: Path, stages: list[Stage], seed: int
) -> Stage:
    """PostgreSQL and RabbitMQ, with a database and a queue of its own."""
    stages.append(postgres_stage(postgres, rabbit.url, tmp_path, seed))
    return stages[-1]


@pytest.fixture
def embedded(tmp_path: Path, stages: list[Stage], seed: int) -> Stage:
    """SQLite, no broker."""
    url = f"sqlite:///{tmp_path}/store.db"
    stages.append(Stage(tmp_path, store_url=url, broker_url=None, queue="faults", seed=seed))
    return stages[-1]


def postgres_stage(
    postgres: services.PostgresInstance, broker_url: str | None, folder: Path, seed: int, **limits: Any
) -> Stage:
    """A stage on a new database."""
    name = f"faults_{next(_names)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres.url.rsplit("/", 1)[0] + f"/{name}"
    return Stage(folder, store_url=url, broker_url=broker_url, queue=f"faults-{name}", seed=seed, **limits)


def _start(make: Callable[[], Any], name: str) -> Any:
    try:
        instance = make()
        instance.start()
    except (services.ServiceError, FileNotFoundError) as error:
        message = f"{name} cannot be started here ({error}); install it with: make services"
        if os.environ.get("CI") == "true" or os.environ.get("PLAYBILL_TEST_REQUIRE_SERVICES"):
            pytest.fail(message)
        pytest.skip(message)
    return instance
