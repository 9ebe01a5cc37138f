"""The scheduler as a process of its own."""

from __future__ import annotations

import contextlib
import signal
import threading

from playbill.client import make_publisher
from playbill.errors import StoreUnavailableError
from playbill.scheduler.service import Scheduler
from playbill.settings import Settings
from playbill.store import open_store


def run_scheduler(settings: Settings, *, stop: threading.Event | None = None, interruptible: bool = True) -> int:
    """Run the scheduler until SIGTERM or SIGINT (or ``stop``), then give the lead up.

    Args:
        settings: The settings.
        stop: Ends the run when set; None makes one that signals set.
        interruptible: Whether SIGINT ends it. Not where a parent in the same process group decides when: Ctrl-C reaches
            the whole group.

    Returns:
        The exit code, 0.

    Raises:
        ConfigurationError: A URL is wrong.
        StoreNotMigratedError: The store has no tables, or older ones.
        StoreTooNewError: The store needs newer code.
    """
    ending = stop if stop is not None else threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT) if interruptible else (signal.SIGTERM,):
            signal.signal(number, lambda *_: ending.set())
    store = open_store(settings)
    try:
        with contextlib.suppress(StoreUnavailableError):  # the scheduler waits for it, and checks then
            store.check()
        publisher = make_publisher(settings, store) if settings.broker_url is not None else None
        try:
            Scheduler(store, settings, publisher).run(ending)
        finally:
            if publisher is not None:
                publisher.close()
    finally:
        store.close()
    return 0
