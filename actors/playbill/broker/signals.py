"""How the broker calls its middleware: only what implements a signal, for four signals a job add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError

from playbill.broker.middleware import refuse_replaced


class SignalBroker(dramatiq.Broker):  # type: ignore[misc, unused-ignore]
    """A broker that knows which middleware implements which signal.

    Args:
        middleware: In the order in which they act.
    """

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self._hooks_by_name: dict[str, tuple[int, list[tuple[Middleware, Callable[..., None]]]]] = {}
        super().__init__(middleware=list(middleware))

    def add_middleware(self, middleware: Middleware, **kwargs: Any) -> None:
        """Add a middleware; those that Playbill replaces are refused."""
        refuse_replaced(middleware)
        self._hooks_by_name.clear()
        super().add_middleware(middleware, **kwargs)
        self._hooks_by_name.clear()

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Call the middleware that implements ``before_<signal>``, and no other: four signals a job add up."""
        for middleware, hook in self._hooks("before_" + signal):
            try:
                hook(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:  # as in Dramatiq: a middleware's failure is logged and the others go on
                self.logger.critical("Unexpected failure in before_%s of %r.", signal, middleware, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Call the middleware that implements ``after_<signal>``, last one first."""
        for middleware, hook in reversed(self._hooks("after_" + signal)):
            try:
                hook(self, *args, **kwargs)
            except Exception:  # as in Dramatiq: a middleware's failure is logged and the others go on
                self.logger.critical("Unexpected failure in after_%s of %r.", signal, middleware, exc_info=True)

    def _hooks(self, name: str) -> list[tuple[Middleware, Callable[..., None]]]:
        found = self._hooks_by_name.get(name)
        if found is None or found[0] != len(self.middleware):
            no_op = getattr(Middleware, name, None)
            hooks = [
                (middleware, getattr(middleware, name))
                for middleware in self.middleware
                if getattr(type(middleware), name, None) is not no_op or name in vars(middleware)
            ]
            found = self._hooks_by_name[name] = (len(self.middleware), hooks)
        return found[1]
