"""Background jobs for Python on Kubernetes: plain Dramatiq actors, tracked and never lost.

Names are loaded at first use, so ``import playbill`` is cheap and touches nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playbill.client import (
        JobHandle as JobHandle,
    )
    from playbill.client import (
        aenqueue as aenqueue,
    )
    from playbill.client import (
        aenqueue_many as aenqueue_many,
    )
    from playbill.client import (
        configure as configure,
    )
    from playbill.client import (
        enqueue as enqueue,
    )
    from playbill.client import (
        enqueue_many as enqueue_many,
    )
    from playbill.client import (
        job as job,
    )
    from playbill.context import JobContext as JobContext
    from playbill.context import current_job as current_job
    from playbill.policy.priority import calculate_priority as calculate_priority

__version__ = "0.1.0"

_HOMES = {
    "configure": "playbill.client",
    "enqueue": "playbill.client",
    "enqueue_many": "playbill.client",
    "aenqueue": "playbill.client",
    "aenqueue_many": "playbill.client",
    "job": "playbill.client",
    "JobHandle": "playbill.client",
    "JobContext": "playbill.context",
    "current_job": "playbill.context",
    "JobStatus": "playbill.policy.states",
    "calculate_priority": "playbill.policy.priority",
    "PlaybillError": "playbill.errors",
    "ConfigurationError": "playbill.errors",
    "InvalidInputError": "playbill.errors",
    "PayloadTooLargeError": "playbill.errors",
    "ForeignSessionError": "playbill.errors",
    "StoreUnavailableError": "playbill.errors",
    "JobNotFoundError": "playbill.errors",
    "JobFailed": "playbill.errors",
    "JobCancelled": "playbill.errors",
    "WaitTimeout": "playbill.errors",
    "FenceLostError": "playbill.errors",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names are strings, only computed


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'playbill' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
