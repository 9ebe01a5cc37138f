"""The transport alone: publisher and intake beside pika's own blocking client, on one quorum queue.

    python bench/transport.py [--messages N] [--rounds N] [--broker rabbitmq|rabbitmq4]

Ratios compare within one run: machines differ, and so do hours. The client's CPU time is of this whole process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pika

from playbill.broker.port import Outgoing
from playbill.broker.rabbitmq.intake import RabbitIntake
from playbill.broker.rabbitmq.publisher import RabbitPublisher
from servers import fresh_queue, show, url_of

BODY = b"x" * 300
PREFETCH = 200
BATCH = 100
DEADLINE_S = 120.0


@dataclass
class Samples:
    """Rates and client CPU per message of the rounds of one contender."""

    name: str
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


def measure(samples: Samples, messages: int, run: Callable[[], None]) -> None:
    before, began = _cpu_s(), time.perf_counter()
    run()
    samples.rates.append(messages / (time.perf_counter() - began))
    samples.cpu_us.append((_cpu_s() - before) / messages * 1e6)


def publish_blocking(url: str, queue: str, messages: int, *, confirm: bool) -> Callable[[], None]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    if confirm:
        channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2, headers={"playbill-id": "0" * 32, "playbill-epoch": 1})

    def run() -> None:
        for _ in range(messages):
            channel.basic_publish("", queue, BODY, properties, mandatory=confirm)
        connection.close()

    return run


def publish_playbill(url: str, queue: str, messages: int) -> Callable[[], None]:
    confirmed = 0

    def count(messages: Sequence[Outgoing]) -> None:
        nonlocal confirmed
        confirmed += len(messages)

    publisher = RabbitPublisher(url, on_confirmed=count, buffer_limit=messages)
    publisher.depths([queue], 10)  # the connection is made
    outgoing = [Outgoing(f"{number:032x}", 1, queue, BODY) for number in range(messages)]

    def run() -> None:
        for first in range(0, messages, BATCH):
            publisher.publish(outgoing[first : first + BATCH])
        if not publisher.flush(DEADLINE_S) or confirmed != messages:
            raise SystemExit(f"only {confirmed} of {messages} were confirmed")
        publisher.close()

    return run


def fill(url: str, queue: str, messages: int) -> None:
    publish_playbill(url, queue, messages)()


def delete(url: str, queue: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    for name in (queue, f"{queue}.parked"):
        connection.channel().queue_delete(name)
    connection.close()


def consume_blocking(url: str, queue: str, messages: int, *, batch: int) -> Callable[[], None]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)

    def run() -> None:
        for number, (method, _, _) in enumerate(channel.consume(queue), 1):
            if number % batch == 0 or number == messages:
                channel.basic_ack(method.delivery_tag, multiple=batch > 1)
            if number == messages:
                break
        channel.cancel()
        connection.close()

    return run


def consume_playbill(url: str, queue: str, messages: int) -> Callable[[], None]:
    def run() -> None:
        intake = RabbitIntake(url)
        intake.open(queue, PREFETCH)

        def drain() -> None:
            left, deadline = messages, time.monotonic() + DEADLINE_S
            while left and time.monotonic() < deadline:
                deliveries = intake.take(queue, BATCH, 1.0)
                intake.ack(deliveries)
                left -= len(deliveries)
            if left:
                raise SystemExit(f"{left} of {messages} did not arrive")

        taker = threading.Thread(target=drain)
        taker.start()
        taker.join()
        intake.close()

    return run


def bench_publish(url: str, messages: int, rounds: int) -> list[Samples]:
    every, none, ours = (
        Samples("pika blocking, confirm each"),
        Samples("pika blocking, no confirm"),
        Samples("Playbill"),
    )
    for _ in range(rounds):
        queue = fresh_queue()
        fill(url, queue, 100)  # declares it
        few = max(1, messages // 20)  # twenty times slower
        measure(every, few, publish_blocking(url, queue, few, confirm=True))
        measure(none, messages, publish_blocking(url, queue, messages, confirm=False))
        measure(ours, messages, publish_playbill(url, queue, messages))
        delete(url, queue)
    return [every, none, ours]


def bench_consume(url: str, messages: int, rounds: int) -> list[Samples]:
    single, multiple = Samples("pika blocking, ack each"), Samples(f"pika blocking, ack per {BATCH // 2}")
    ours = Samples("Playbill")
    for _ in range(rounds):
        queue = fresh_queue()
        for samples, maker in (
            (single, lambda: consume_blocking(url, queue, messages, batch=1)),  # noqa: B023 - used in this round only
            (multiple, lambda: consume_blocking(url, queue, messages, batch=BATCH // 2)),  # noqa: B023
            (ours, lambda: consume_playbill(url, queue, messages)),  # noqa: B023
        ):
            fill(url, queue, messages)
            measure(samples, messages, maker())
        delete(url, queue)
    return [single, multiple, ours]


def rows(results: list[Samples]) -> list[list[object]]:
    medians = [statistics.median(each.rates) for each in results]
    return [
        [each.name, f"{rate:,.0f}", f"{statistics.median(each.cpu_us):.0f}", f"{medians[-1] / rate:.2f}"]
        for each, rate in zip(results, medians, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=("rabbitmq", "rabbitmq4"), default="rabbitmq")
    arguments = parser.parse_args()
    url = url_of(arguments.broker)
    columns = ("client", "messages/s", "client CPU us/msg", "Playbill is x times")
    title = f"{arguments.broker}, quorum queue, {len(BODY)} bytes, medians of {arguments.rounds}"
    show(f"Publish ({title})", columns, rows(bench_publish(url, arguments.messages, arguments.rounds)))
    show(
        f"Consume, prefetch {PREFETCH} ({title})",
        columns,
        rows(bench_consume(url, arguments.messages, arguments.rounds)),
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
