"""Apps over all transports, and workers as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from tests.integration.scheduler.conftest import bare_database, postgres_database  # noqa: F401
from tests.integration.worker.crew import Crew
from tests.integration.worker.jobs import other
from tests.support.transports import scheduler_of, sqlite_app  # noqa: F401


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Crew]:
    """Workers on SQLite."""
    made = Crew(tmp_path, store_url=f"sqlite:///{tmp_path}/store.db", broker_url=None, queue="work")
    yield made
    made.close()


@pytest.fixture
def rabbit(postgres_database: str, rabbitmq_url: str, fresh_queue: str, tmp_path: Path) -> Iterator[Crew]:  # noqa: F811
    """Workers on PostgreSQL and RabbitMQ."""
    made = Crew(tmp_path, store_url=postgres_database, broker_url=rabbitmq_url, queue=fresh_queue)
    with scheduler_of(made.runtime):  # a slow server may lose a publish; its relay is part of the promise
        yield made
    made.close()
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    connection.channel().queue_delete(other(fresh_queue))
    connection.close()
