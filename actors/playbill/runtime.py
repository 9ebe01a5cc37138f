"""The process's one runtime: what ``configure()`` makes, and what everything else of the client works with.

Nothing happens at import. ``configure()`` makes the :class:`Runtime` and sets Dramatiq's broker.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import dramatiq

from playbill.broker.base import PlaybillBroker
from playbill.broker.port import Publisher
from playbill.broker.settler import OutboxSettler
from playbill.errors import ConfigurationError
from playbill.observe.log import get_logger
from playbill.settings import Settings, load
from playbill.store import open_store
from playbill.store.port import Store

if TYPE_CHECKING:
    from dramatiq.middleware import Middleware

SETTINGS_IGNORED: Final = "configure.settings_ignored"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a configured process works with: one store, one broker.

    Attributes:
        settings: The settings it was made with.
        store: The store.
        broker: Dramatiq's broker.
        middleware: The user's own.
        pinned: A test or a command holds it; ``configure()`` answers it whatever settings the code under it gives.
        takes_middleware: Whether a pinned runtime adds the middleware that ``configure()`` is given.
    """

    settings: Settings
    store: Store
    broker: PlaybillBroker
    middleware: tuple[Middleware, ...] = ()
    pinned: bool = False
    takes_middleware: bool = False

    def close(self) -> None:
        """Flush and close all connections."""
        self.broker.close()


_runtime: Runtime | None = None
_lock = threading.Lock()


def configure(settings: Settings | None = None, *, middleware: Sequence[Middleware] = (), **overrides: Any) -> Runtime:
    """Read the settings, open the store and make Playbill's broker Dramatiq's global one.

    Call it once, before the modules with actors are imported. A second call with the same settings (or none) answers
    the runtime that is there, so an actor module may call it too. In a worker or a command, which has settings of its
    own, it only adds the middleware.

    Args:
        settings: Ready settings; None reads them from environment and file.
        middleware: Dramatiq middleware of your own, added after Playbill's.
        **overrides: Single settings, for example ``store_url="postgresql://..."``.

    Returns:
        The runtime.

    Raises:
        ConfigurationError: A setting is wrong, or the process is configured otherwise already and has actors.
        StoreNotMigratedError: The store has no tables yet: run ``playbill migrate``.
        StoreTooNewError: The store needs newer code.
    """
    with _lock:
        current = _runtime
        if current is not None and current.pinned:
            return _join(current, settings, tuple(middleware), overrides)
        if current is not None and settings is None and not overrides and not middleware:
            return _install(current)
        wanted = settings if settings is not None else load(**overrides)
        if current is not None:
            if wanted == current.settings and not middleware:
                return _install(current)
            if current.broker.actors:
                raise ConfigurationError(
                    "configure() was called before with other settings or middleware and actors are bound to it; "
                    "call it once, before the modules with actors are imported"
                )
            current.close()
        return _install(_make_runtime(wanted, tuple(middleware)))


def configure_command(settings: Settings) -> Runtime:
    """Configure a worker or command: its settings hold, whatever the modules that it imports ask for.

    Args:
        settings: The command's settings.

    Returns:
        The runtime, which adds the middleware of the modules' own ``configure()``.

    Raises:
        ConfigurationError: The broker's URL is wrong.
        StoreNotMigratedError: The store has no tables yet.
        StoreTooNewError: The store needs newer code.
    """
    made = configure(settings)
    with _lock:
        return _install(replace(made, pinned=True, takes_middleware=True))


def _install(chosen: Runtime) -> Runtime:
    global _runtime  # noqa: PLW0603 - one runtime a process, as Dramatiq has one global broker
    _runtime = chosen
    dramatiq.set_broker(chosen.broker)
    return chosen


def _join(
    current: Runtime, settings: Settings | None, middleware: tuple[Middleware, ...], overrides: dict[str, Any]
) -> Runtime:
    """What a pinned runtime takes of a call: at most its middleware, one of each class however many modules ask."""
    if not current.takes_middleware:
        return _install(current)
    wanted = settings if settings is not None or not overrides else load(**overrides)
    if wanted is not None:
        ignored = [name for name in Settings.model_fields if getattr(wanted, name) != getattr(current.settings, name)]
        if ignored:
            log.warning(SETTINGS_IGNORED, settings=sorted(ignored))
    there = {type(item) for item in current.middleware}
    added = tuple(item for item in middleware if type(item) not in there)
    for item in added:
        current.broker.add_middleware(item)
    return _install(replace(current, middleware=(*current.middleware, *added)))


def runtime() -> Runtime:
    """The configured runtime.

    Raises:
        ConfigurationError: ``configure()`` was not called.
    """
    if _runtime is None:
        raise ConfigurationError("Playbill is not configured: call playbill.configure() first")
    return _runtime


def reset() -> None:
    """Forget the runtime and close it (for tests and for a process that changes its store)."""
    global _runtime
    with _lock:
        current, _runtime = _runtime, None
    if current is not None:
        current.close()


def swap(other: Runtime | None) -> Runtime | None:
    """Put another runtime in place (for ``playbill.testing``); returns the one that was there, not closed."""
    global _runtime
    with _lock:
        current, _runtime = _runtime, other
    return current


def make_publisher(settings: Settings, store: Store) -> Publisher:
    """A RabbitMQ publisher whose confirms settle the store's outbox."""
    from playbill.broker.rabbitmq.publisher import RabbitPublisher

    if settings.broker_url is None:
        raise ConfigurationError("PLAYBILL_BROKER_URL is not set: there is no broker to publish to")
    settler = OutboxSettler(store)
    return RabbitPublisher(
        settings.broker_url.get_secret_value(), on_confirmed=settler.confirmed, on_closed=settler.close
    )


def _make_runtime(settings: Settings, middleware: tuple[Middleware, ...]) -> Runtime:
    store = open_store(settings)
    store.check()
    maker = None
    if settings.broker_url is not None:
        from playbill.broker.rabbitmq.parameters import parse_url

        parse_url(settings.broker_url.get_secret_value())  # a wrong URL is found here, not at the first publish
        maker = lambda: make_publisher(settings, store)  # noqa: E731 - two names for one line would not be clearer
    broker = PlaybillBroker(store, settings, make_publisher=maker, middleware=middleware)
    return Runtime(settings, store, broker, middleware)


@atexit.register
def _close_at_exit() -> None:
    if _runtime is not None:
        _runtime.close()
