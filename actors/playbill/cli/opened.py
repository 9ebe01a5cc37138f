"""The store as commands use it: settings read, schema checked, closed at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playbill.cli.output import note
from playbill.store.port import Store
from playbill.store.values import Handover, Publishable

if TYPE_CHECKING:
    from playbill.settings import Settings

#: How long a command waits for the broker, s.
_CONFIRM_S = 5.0


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store and the settings it was opened with."""

    store: Store
    settings: Settings

    @property
    def handover(self) -> Handover:
        """How jobs that commands bring back reach workers."""
        return Handover.STORE if self.settings.broker_url is None else Handover.BROKER

    def publish(self, jobs: Sequence[Publishable]) -> None:
        """Publish what a command brought back; what is not confirmed in time, the scheduler's relay publishes."""
        if not jobs or self.settings.broker_url is None:
            return
        from playbill.broker.port import Outgoing
        from playbill.client import make_publisher

        publisher = make_publisher(self.settings, self.store)
        try:
            publisher.publish([Outgoing(job.id, job.epoch, job.queue, job.message) for job in jobs])
            if not publisher.flush(_CONFIRM_S):
                note("the broker has not confirmed yet; the jobs are stored, and the scheduler publishes them")
        finally:
            publisher.close()


def require_broker_url(settings: Settings) -> None:
    """Refuse a wrong broker URL before anything is written.

    Raises:
        ConfigurationError: It is wrong.
    """
    if settings.broker_url is not None:
        from playbill.broker.rabbitmq.parameters import parse_url

        parse_url(settings.broker_url.get_secret_value())


@contextmanager
def opened_store() -> Iterator[Opened]:
    """Open the store that the settings name.

    Raises:
        ConfigurationError: A setting is wrong; the broker's URL too, which is needed only once something was written.
        StoreUnavailableError: The store cannot be reached.
        StoreNotMigratedError: It has no tables yet.
    """
    from playbill.settings import load
    from playbill.store import open_store

    settings = load()
    require_broker_url(settings)
    store = open_store(settings)
    try:
        store.check()
        yield Opened(store, settings)
    finally:
        store.close()
