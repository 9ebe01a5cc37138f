"""A scheduler of its own process, set up by PLAYBILL_* variables; prints its identity, then runs until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from playbill.broker.rabbitmq.publisher import RabbitPublisher
from playbill.broker.settler import OutboxSettler
from playbill.observe.log import configure_logging
from playbill.scheduler.service import Scheduler
from playbill.settings import load
from playbill.store import open_store


def main() -> None:
    settings = load()
    configure_logging(settings)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store: Any = open_store(settings)
    publisher = settler = None
    if settings.broker_url is not None:
        settler = OutboxSettler(store)
        publisher = RabbitPublisher(settings.broker_url.get_secret_value(), on_confirmed=settler.confirmed)
    scheduler = Scheduler(store, settings, publisher)
    print(scheduler.holder, flush=True)  # noqa: T201 - read by the test
    scheduler.run(stop)
    if publisher is not None and settler is not None:
        publisher.close()
        settler.close()
    store.close()


if __name__ == "__main__":
    main()
    sys.exit(0)
