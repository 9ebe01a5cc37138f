"""Stores, brokers and scheduler processes for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import pika
import pytest
import sqlalchemy as sa

from playbill.broker.rabbitmq.publisher import RabbitPublisher
from playbill.broker.settler import OutboxSettler
from playbill.scheduler.election import LEADER_NAME
from playbill.scheduler.service import Scheduler
from playbill.settings import Settings
from playbill.store import open_store
from playbill.store.migrate import migrate
from tests.integration.scheduler.work import QUICK

HERE = Path(__file__).resolve().parent
ACTORS = HERE.parents[2] / "actors"


@pytest.fixture
def bare_database(postgres_url):
    """URL of a database that nobody has migrated."""
    name = f"playbill_{uuid.uuid4().hex[:12]}"
    url = sa.make_url(postgres_url).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def postgres_database(bare_database):
    """URL of an empty, migrated database."""
    migrate(Settings(store_url=bare_database))
    return bare_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request, tmp_path):
    """URL of an empty store, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def resources():
    """Closes what a test opened, last first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def open_(resources):
    """Opens a store by its URL."""

    def open_one(url, **values):
        store = open_store(Settings(store_url=url, **{**QUICK, **values}))
        resources.callback(store.close)
        return store

    return open_one


@pytest.fixture
def queue(request):
    """Name of a queue that no other test uses; removed from RabbitMQ afterwards if the test used it."""
    name = f"scheduler-{uuid.uuid4().hex[:12]}"
    yield name
    if "rabbitmq_url" in request.fixturenames:
        connection = pika.BlockingConnection(pika.URLParameters(request.getfixturevalue("rabbitmq_url")))
        for each in (name, f"{name}.parked"):
            connection.channel().queue_delete(each)
        connection.close()


@pytest.fixture
def rabbit(rabbitmq_url, resources):
    """A blocking channel to look into queues."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    resources.callback(connection.close)
    return connection.channel()


@pytest.fixture
def publish_for(rabbitmq_url, resources):
    """A real publisher whose confirms settle the outbox of a store."""

    def make(store):
        settler = OutboxSettler(store)
        publisher = RabbitPublisher(rabbitmq_url, on_confirmed=settler.confirmed)
        resources.callback(settler.close)
        resources.callback(publisher.close)
        return publisher

    return make


@pytest.fixture
def start(resources):
    """Runs a scheduler in a thread until the test ends."""

    def start_one(store, publisher=None, **values):
        scheduler = Scheduler(store, Settings(**{**QUICK, **values}), publisher)
        stop = threading.Event()
        thread = threading.Thread(target=scheduler.run, args=(stop,), name=scheduler.holder)
        thread.start()

        def end():
            stop.set()
            thread.join(60)
            assert not thread.is_alive()

        resources.callback(end)
        return scheduler

    return start_one


@pytest.fixture
def spawn(resources):
    """Runs a scheduler in a process; answers (process, identity)."""

    def spawn_one(store_url, broker_url=None, **values):
        settings = {"store_url": store_url, **QUICK, **values}
        if broker_url is not None:
            settings["broker_url"] = broker_url
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PLAYBILL_")}
        environment = {f"PLAYBILL_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "scheduler_process.py")],
            env={**kept, **environment, "PYTHONPATH": str(ACTORS)},
            stdout=subprocess.PIPE,
            text=True,
        )

        def end():
            process.kill()
            process.wait(30)
            process.stdout.close()

        resources.callback(end)
        return process, process.stdout.readline().strip()

    return spawn_one


@pytest.fixture
def leader_of():
    """Reads who leads in a store, past the port."""
    engines = []

    def read(url):
        made = sa.make_url(url)
        if made.get_backend_name() == "postgresql":
            made = made.set(drivername="postgresql+psycopg")
        table = "playbill_leaders" if made.get_backend_name() == "sqlite" else "playbill.leaders"
        engine = sa.create_engine(made, poolclass=sa.NullPool)
        engines.append(engine)

        def ask():
            with engine.connect() as connection:
                return connection.execute(
                    sa.text(f"SELECT holder FROM {table} WHERE name = :name"), {"name": LEADER_NAME}
                ).scalar()

        return ask

    yield read
    for engine in engines:
        engine.dispose()
