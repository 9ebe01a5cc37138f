"""Help for the tests of services that use Playbill.

Three ways to test code that enqueues jobs, none of which needs a service:

- :func:`inline`: each job runs as soon as it is enqueued, in the thread of the caller.
- :func:`manual`: jobs wait until the test says ``run_next()`` or ``drain()``.
- :func:`stub_broker`: Dramatiq's own ``StubBroker``, for tests that are written for it.

The pytest fixtures ``playbill_inline`` and ``playbill_manual`` are the first two. Nothing is imported before it is
used, so a test run that does not use Playbill pays nothing for its plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playbill.testing.assertions import assert_enqueued as assert_enqueued
    from playbill.testing.assertions import refute_enqueued as refute_enqueued
    from playbill.testing.harness import Harness as Harness
    from playbill.testing.harness import inline as inline
    from playbill.testing.harness import manual as manual
    from playbill.testing.stub import stub_broker as stub_broker

_HOMES = {
    "Harness": "playbill.testing.harness",
    "assert_enqueued": "playbill.testing.assertions",
    "inline": "playbill.testing.harness",
    "manual": "playbill.testing.harness",
    "refute_enqueued": "playbill.testing.assertions",
    "stub_broker": "playbill.testing.stub",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names are strings, only computed


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'playbill.testing' has no attribute {name!r}")
    return getattr(import_module(home), name)
