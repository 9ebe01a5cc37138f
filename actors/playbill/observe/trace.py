"""W3C trace context from the enqueue to the attempt, through OpenTelemetry where the program has set it up.

Without OpenTelemetry the trace id still travels: an attempt puts its ``traceparent`` into a context variable, and what
it enqueues carries the same trace on. ``opentelemetry-api`` alone (no tracer provider) counts as "without".

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import random
import re
import time
from contextvars import ContextVar
from functools import cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_HEADER: Final = "traceparent"

_current: ContextVar[str | None] = ContextVar("playbill_traceparent", default=None)


def new_traceparent() -> str:
    """A new trace, marked as sampled (otherwise parent-based samplers down the line would drop all of it)."""
    return f"00-{random.getrandbits(128) | 1:032x}-{random.getrandbits(64) | 1:016x}-01"


def current_traceparent() -> str | None:
    """The trace context of this code: the active OpenTelemetry span's, else that of the attempt that runs here."""
    api = _api()
    if api is not None:
        context = api.get_current_span().get_span_context()
        if context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return _current.get()


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id (32 hex digits) of a ``traceparent``; None where it is missing or malformed."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return None
    return traceparent[3:35]


class _Span:
    """Sets the trace context for a block; with a tracer provider it is a span of its own."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token")

    _fresh = False

    def __init__(
        self,
        name: str,
        traceparent: str | None = None,
        attributes: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        self._name = name
        self._parent = traceparent
        self._attributes = attributes

    def __enter__(self) -> str | None:
        self._span: AbstractContextManager[Any] | None = None
        traceparent = self._parent
        api = _api()
        if api is not None and _has_provider(api):
            self._span = self._start(api)
            self._span.__enter__()
            traceparent = current_traceparent()
        elif self._fresh:
            traceparent = traceparent or current_traceparent() or new_traceparent()
        self._token = _current.set(traceparent)
        return traceparent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        if self._span is not None:
            self._span.__exit__(kind, error, traceback)

    def _start(self, api: ModuleType) -> AbstractContextManager[Any]:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        kind = api.SpanKind.PRODUCER if self._fresh else api.SpanKind.CONSUMER
        context = None
        if self._parent is not None:
            context = TraceContextTextMapPropagator().extract({_HEADER: self._parent})
        span: AbstractContextManager[Any] = api.get_tracer("playbill").start_as_current_span(
            self._name, context=context, kind=kind, attributes=self._attributes
        )
        return span


class attempt_span(_Span):  # noqa: N801 - used as `with attempt_span(...)`
    """An attempt of a job: a CONSUMER span whose parent is the enqueue.

    Args:
        name: Name of the span, for example ``run send_transfer``.
        traceparent: What the message carried; None starts a trace of its own (with OpenTelemetry only).
        attributes: Attributes of the span; unused without OpenTelemetry.

    Yields the attempt's ``traceparent``. An exception that leaves the block is recorded on the span.
    """

    __slots__ = ()


class enqueue_span(_Span):  # noqa: N801 - used as `with enqueue_span(...)`
    """An enqueue: a PRODUCER span below the caller's.

    Yields the ``traceparent`` to put on the message: the span's, else the current one, else a new trace.
    """

    __slots__ = ()

    _fresh = True


#: Time between two looks for a tracer provider, s.
_ASK_EVERY_S = 0.1
_asked_at = -_ASK_EVERY_S - 1.0
_provided = False


@cache
def _api() -> ModuleType | None:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


def _has_provider(api: ModuleType) -> bool:
    """Whether somebody has set a tracer provider; asking costs microseconds while nobody has, so it is asked rarely."""
    global _asked_at, _provided  # noqa: PLW0603 - one answer per process
    if _provided:
        return True
    now = time.monotonic()
    if now - _asked_at > _ASK_EVERY_S:
        _asked_at = now
        _provided = not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)
    return _provided
