"""Fixtures for all tests: the real services of `make services`."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import secrets
import threading
from collections.abc import Iterator

import pika
import pika.exceptions
import pytest
import structlog

from tests.support.waiting import eventually
from tools import services

# Taken out of the environment: Playbill refuses settings that it does not know, and so would each process we start.
_GIVEN = {name: os.environ.pop(variable, "") for name, variable in services.VARIABLES.items()}
_HINT = {"rabbitmq4": " (python tools/services.py start --debian13)"}


def service_url(name: str) -> str:
    """URL of a service; skips the test where it is missing, fails it in CI."""
    found = _GIVEN[name] or services.urls().get(services.VARIABLES[name])
    if found:
        return found
    message = f"{name} is not running; start it with: make services{_HINT.get(name, '')}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes start in a third of the time where the first one may keep what it has compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(autouse=True)
def _logging_stays_here() -> Iterator[None]:
    """What a test configures of logging ends with it: commands configure the whole process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    """A thread that is no daemon and does not end keeps this process, and a user's, from ending."""
    before = set(threading.enumerate())
    yield

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if not thread.daemon and thread not in before]

    eventually(lambda: not left(), deadline_s=20, what=f"the end of {left()}")


def pytest_unconfigure() -> None:
    """Whatever else may keep this process from ending is shown, and does not keep it for ever."""
    faulthandler.dump_traceback_later(120, exit=True)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """SQLAlchemy URL of a PostgreSQL superuser."""
    return service_url("postgres")


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """URL of the RabbitMQ that the machine's Debian packages."""
    return service_url("rabbitmq")


@pytest.fixture(scope="session")
def rabbitmq4_url() -> str:
    """URL of RabbitMQ 4.0."""
    return service_url("rabbitmq4")


@pytest.fixture(scope="session", params=["rabbitmq", "rabbitmq4"])
def any_rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """URL of each RabbitMQ version in turn."""
    return service_url(request.param)


@pytest.fixture
def queue_prefix() -> str:
    """Begins the names of this test's queues; a virtual host for each would cost a second."""
    return f"t{secrets.token_hex(5)}"


def _delete_queues(url: str, *names: str) -> None:
    with contextlib.suppress(pika.exceptions.AMQPError):  # the test may have left no broker behind
        connection = pika.BlockingConnection(pika.URLParameters(url))
        with contextlib.closing(connection):
            channel = connection.channel()
            for name in names:
                for suffix in ("", ".parked", ".DQ", ".XQ"):
                    channel.queue_delete(name + suffix)


@pytest.fixture
def fresh_queue(rabbitmq_url: str, queue_prefix: str) -> Iterator[str]:
    """A queue name of this test's own; what it left on RabbitMQ goes at the end."""
    yield queue_prefix
    _delete_queues(rabbitmq_url, queue_prefix)


@pytest.fixture
def any_fresh_queue(any_rabbitmq_url: str, queue_prefix: str) -> Iterator[str]:
    """The same on the RabbitMQ of ``any_rabbitmq_url``."""
    yield queue_prefix
    _delete_queues(any_rabbitmq_url, queue_prefix)
