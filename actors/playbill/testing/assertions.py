"""Assertions about what was enqueued in the store of the running harness (or of the configured process)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dramatiq
from dramatiq import get_encoder

from playbill import client
from playbill.broker.new_job import OPTION_SENSITIVE
from playbill.observe.redact import MASK, mask_arguments, signature_names
from playbill.store.values import JobFilter, JobRow

#: Most jobs looked at, and most listed in a failure.
_LOOKED_AT = 10_000
_LISTED = 20


def assert_enqueued(
    actor: dramatiq.Actor[Any, Any] | str | None = None,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    count: int | None = None,
) -> list[JobRow]:
    """Fail unless such a job was enqueued, whether it has run since or not.

    Args:
        actor: The actor or its name; None: any.
        args: All its positional arguments; None: any.
        kwargs: All its keyword arguments; None: any.
        queue: Its queue; None: any.
        count: How many such jobs there must be; None: one or more.

    Returns:
        The jobs, oldest first.

    Raises:
        AssertionError: There is none (or not ``count``); the message lists what was enqueued.
    """
    __tracebackhide__ = True
    wanted, rows = _Wanted(actor, args, kwargs, queue), _rows()
    found = [row for row in rows if wanted.fits(row)]
    wrong = not found if count is None else len(found) != count
    if wrong:
        number = "at least 1" if count is None else str(count)
        raise AssertionError(_report(f"expected {number} job with {wanted}, found {len(found)}", rows))
    return found


def refute_enqueued(
    actor: dramatiq.Actor[Any, Any] | str | None = None,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
) -> None:
    """Fail if such a job was enqueued; the arguments are those of :func:`assert_enqueued`.

    Raises:
        AssertionError: There is one; the message lists what was enqueued.
    """
    __tracebackhide__ = True
    wanted, rows = _Wanted(actor, args, kwargs, queue), _rows()
    found = [row for row in rows if wanted.fits(row)]
    if found:
        raise AssertionError(_report(f"expected no job with {wanted}, found {len(found)}", rows))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an assertion looks for; None: anything."""

    actor: dramatiq.Actor[Any, Any] | str | None
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    queue: str | None

    def fits(self, row: JobRow) -> bool:
        """Whether a job is such a one."""
        if self.actor is not None and row.actor != getattr(self.actor, "actor_name", self.actor):
            return False
        if self.queue is not None and row.queue != self.queue:
            return False
        message = dramatiq.Message.decode(row.message)
        if self.args is not None and list(message.args) != _as_stored(list(self.args)):
            return False
        return self.kwargs is None or message.kwargs == _as_stored(dict(self.kwargs))

    def __str__(self) -> str:
        parts = [f"actor={getattr(self.actor, 'actor_name', self.actor)}"] if self.actor is not None else []
        args, kwargs = self._masked()
        given = (("args", args), ("kwargs", kwargs), ("queue", self.queue))
        parts += [f"{name}={value!r}" for name, value in given if value is not None]
        return ", ".join(parts) or "anything"

    def _masked(self) -> tuple[Sequence[Any] | None, Mapping[str, Any] | None]:
        actor = client.runtime().broker.actors.get(self.actor) if isinstance(self.actor, str) else self.actor
        if actor is None:
            return self.args, self.kwargs
        function = inspect.unwrap(actor.fn)
        names = signature_names(getattr(function, "perform", function))  # a class-based actor's stand in `perform`
        args, kwargs = mask_arguments(self.args or (), self.kwargs or {}, actor.options.get("sensitive") or (), names)
        return (None if self.args is None else args), (None if self.kwargs is None else kwargs)


def _rows() -> list[JobRow]:
    return client.runtime().store.find(JobFilter(), limit=_LOOKED_AT)[::-1]


def _as_stored(value: Any) -> Any:
    """What the value becomes on its way through the message: tuples are lists then."""
    return get_encoder().decode(get_encoder().encode({"value": value}))["value"]


def _report(verdict: str, rows: Sequence[JobRow]) -> str:
    lines = [f"{verdict}; enqueued were:"]
    lines += [f"  {_described(row)}" for row in rows[:_LISTED]] or ["  nothing"]
    if len(rows) > _LISTED:
        lines.append(f"  ... and {len(rows) - _LISTED} more")
    return "\n".join(lines)


def _described(row: JobRow) -> str:
    message = dramatiq.Message.decode(row.message)
    masked = frozenset(message.options.get(OPTION_SENSITIVE) or ())  # positions and names
    parts = [MASK if index in masked else repr(arg) for index, arg in enumerate(message.args)]
    parts += [f"{name}={MASK if name in masked else repr(value)}" for name, value in message.kwargs.items()]
    return f"{row.actor}({', '.join(parts)}) on {row.queue}: {row.status}"
