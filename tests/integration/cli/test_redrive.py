"""What commands bring back reaches RabbitMQ at once, without a scheduler; without a broker it is kept for the relay."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pika
import pytest

from playbill.settings import Settings
from playbill.store import open_store
from playbill.store.port import Store
from playbill.store.values import ClaimRef, ErrorRecord, Finish, Handover, NewJob, Outcome, ParkedMessage
from tests.support.waiting import eventually

pytestmark = pytest.mark.rabbitmq

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def queue(rabbitmq_url: str) -> Iterator[str]:
    """Name of a queue that nobody else has, deleted at the end."""
    name = f"cli-{uuid.uuid4().hex[:12]}"
    yield name
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        for each in (name, f"{name}.parked"):
            connection.channel().queue_delete(each)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(Settings(store_url=f"sqlite:///{tmp_path}/store.db"))
    opened.check()
    yield opened
    opened.close()


@pytest.fixture
def playbill(tmp_path: Path) -> Program:
    """Runs the real program against this store and a broker."""

    def run(*args: str, broker_url: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PLAYBILL_")}
        environment |= {"PLAYBILL_STORE_URL": f"sqlite:///{tmp_path}/store.db", "PLAYBILL_BROKER_URL": broker_url}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", "playbill.cli.main", *args]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def body(queue: str, job_id: str) -> bytes:
    return dramatiq.Message(queue, "send", ("a",), {}, {}, message_id=job_id).encode()


def failed_job(store: Store, queue: str, job_id: str = "j1") -> None:
    store.insert([NewJob(job_id, queue, "send", body(queue, job_id))], handover=Handover.STORE)
    (job,) = store.claim([ClaimRef(job_id, 1)], worker="w1").claimed
    finish = Finish(job.id, job.epoch, job.token, Outcome.FAILED, queue, "send", error=ErrorRecord("OSError", "x"))
    assert store.finish([finish], handover=Handover.BROKER).applied


def delivered(url: str, queue: str) -> list[str]:
    """Take what is in the queue: ids of the messages."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        found = []

        def take() -> bool:
            _, _, message = channel.basic_get(queue, auto_ack=True)
            if message is not None:
                found.append(dramatiq.Message.decode(message).message_id)
            return message is not None

        eventually(take, deadline_s=20, what="a message in the queue")
        return found


def test_a_retried_job_is_published(store: Store, queue: str, playbill: Program, rabbitmq_url: str) -> None:
    failed_job(store, queue)

    answer = playbill("jobs", "retry", "j1", broker_url=rabbitmq_url)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "1 jobs will run again\n", "")
    assert delivered(rabbitmq_url, queue) == ["j1"]


def test_a_parked_message_that_became_a_job_is_published(
    store: Store, queue: str, playbill: Program, rabbitmq_url: str
) -> None:
    store.park([ParkedMessage("p1", queue, body(queue, "j1"), "no row")])

    answer = playbill("parked", "redrive", "p1", broker_url=rabbitmq_url)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "p1 is job j1\n", "")
    assert delivered(rabbitmq_url, queue) == ["j1"]


def test_without_a_broker_the_job_is_kept_for_the_relay(store: Store, queue: str, playbill: Program) -> None:
    failed_job(store, queue)

    answer = playbill("jobs", "retry", "j1", broker_url="amqp://me:hunter22@127.0.0.1:1/")

    assert (answer.returncode, answer.stdout) == (0, "1 jobs will run again\n")
    assert "the scheduler publishes them" in answer.stderr
    assert "hunter22" not in answer.stdout + answer.stderr
    assert store.lead("scheduler", "test", lease_s=60)
    assert [job.id for job in eventually(lambda: outbox(store), deadline_s=60, what="the outbox row is due")] == ["j1"]


def outbox(store: Store) -> list[object]:
    return list(store.take_outbox(limit=10, relay_after_s=60.0, leader="test"))
