"""A RabbitMQ to use, and one to break."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from playbill.broker.port import Outgoing
from playbill.broker.rabbitmq.intake import RabbitIntake
from playbill.broker.rabbitmq.publisher import RabbitPublisher
from tools import services


class Confirmed(list[str]):
    """Ids of what the broker has confirmed."""

    def __call__(self, messages: Any) -> None:
        self.extend(message.id for message in messages)


class Transport:
    """Publishers and intakes of one test; closed at its end.

    Args:
        url: The broker's URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[RabbitPublisher | RabbitIntake] = []

    def publisher(self, url: str | None = None, **options: Any) -> tuple[RabbitPublisher, Confirmed]:
        confirmed = Confirmed()
        publisher = RabbitPublisher(url or self.url, on_confirmed=confirmed, **options)
        self._opened.append(publisher)
        return publisher, confirmed

    def intake(self, url: str | None = None) -> RabbitIntake:
        intake = RabbitIntake(url or self.url)
        self._opened.append(intake)
        return intake

    def channel(self) -> pika.adapters.blocking_connection.BlockingChannel:
        return pika.BlockingConnection(pika.URLParameters(self.url)).channel()

    def depth(self, queue: str) -> int:
        channel = self.channel()
        try:
            return int(channel.queue_declare(queue, passive=True).method.message_count)
        finally:
            channel.connection.close()

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture
def queue() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(scope="module", params=["rabbitmq", "rabbitmq4"])
def version(request: pytest.FixtureRequest) -> str:
    """Each version of RabbitMQ in turn, as the services name them."""
    name = str(request.param)
    request.getfixturevalue(f"{name}_url")  # skips where it is not there
    return name


@pytest.fixture
def transport(version: str, queue: str, request: pytest.FixtureRequest) -> Iterator[Transport]:
    """The shared server of this version; the test's queue is deleted at the end."""
    found = Transport(request.getfixturevalue(f"{version}_url"))
    yield found
    found.close()
    channel = found.channel()
    for name in (queue, f"{queue}.parked"):
        channel.queue_delete(name)
    channel.connection.close()


@pytest.fixture(scope="module")
def own_rabbit(version: str) -> Iterator[services.RabbitInstance]:
    """A server that tests of this module may break."""
    with services.new_rabbit(version) as instance:
        yield instance


@pytest.fixture
def fragile(own_rabbit: services.RabbitInstance) -> Iterator[Transport]:
    found = Transport(own_rabbit.url)
    yield found
    found.close()


def messages(queue: str, count: int, *, start: int = 0) -> list[Outgoing]:
    return [Outgoing(f"job-{i}", 1, queue, b"body %d" % i) for i in range(start, start + count)]
