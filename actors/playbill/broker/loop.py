"""Warns where a blocking enqueue would hold up a running event loop."""

from __future__ import annotations

import asyncio
import sys
import warnings

#: Whose frames are none of the caller's.
_OURS = ("playbill", "dramatiq")


class BlockingEnqueueWarning(RuntimeWarning):
    """A blocking enqueue inside a running event loop, which it blocks for a commit; await ``aenqueue``."""


def warn_if_loop_runs() -> None:
    """Warn, at the line of the service that enqueues, if an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    warnings.warn(
        "a blocking enqueue inside a running event loop blocks it for a commit: use `await playbill.aenqueue(...)`",
        BlockingEnqueueWarning,
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """The first frame outside of Playbill and Dramatiq, as a stacklevel of ``warnings.warn`` in our caller."""
    # Python 3.12 has skip_file_prefixes for it; 3.11 must work too.
    frame, level = sys._getframe(1), 1  # noqa: SLF001 - what the warnings module itself uses
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    return level
