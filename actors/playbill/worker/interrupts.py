"""Exceptions raised in a running actor from outside, and the guard that keeps them inside of it.

``PyThreadState_SetAsyncExc`` only sets a flag: the exception appears at some later bytecode, which may be one of
Dramatiq's own loop, where it would kill the thread. So an exception is only ever set while the actor's function runs,
and what is still pending when that returns is raised, and caught, before anything else happens. It cannot be cleared
instead: Python 3.11 then goes on believing that one is pending, which slows its loop and hangs its tracers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from dramatiq.middleware import Interrupt, raise_thread_exception

_TURNS = 100  #: one is enough


class CancelInterrupt(Interrupt):  # type: ignore[misc, unused-ignore]
    """The job was cancelled and reached no checkpoint within ``cancel_grace_s``."""


class LeaseLostInterrupt(Interrupt):  # type: ignore[misc, unused-ignore]
    """The worker lost its lease: others run this job now."""


class InterruptGuard:
    """Runs one function in the current thread, interruptible from others."""

    __slots__ = ("_fired", "_lock", "_thread_id")

    def __init__(self) -> None:
        # Re-entrant: an interrupt may leave `with` between taking the lock and entering the block.
        self._lock = threading.RLock()
        self._thread_id: int | None = None
        self._fired = False

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the function; interrupts end with it."""
        self._thread_id = threading.get_ident()
        try:
            return fn(*args, **kwargs)
        finally:
            self._close()

    def interrupt(self, kind: type[Interrupt]) -> bool:
        """Raise ``kind`` in the function, once.

        Returns:
            False where the function does not run (any more), or was interrupted before.
        """
        # Never wait: if the lock is held, the function has just returned.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._thread_id is None or self._fired:
                return False
            self._fired = True
            raise_thread_exception(self._thread_id, kind)
            return True
        finally:
            self._lock.release()

    def _close(self) -> None:
        while True:
            try:
                with self._lock:
                    self._thread_id = None  # none is set from here on
                if self._fired:
                    for _ in range(_TURNS):
                        pass  # the interpreter looks for a pending exception at each turn of a loop
            except Interrupt:
                continue  # it came after the function had returned: what was done is done
            return
