"""From a Dramatiq message and the caller's options to a row: everything is checked before anything is written."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dramatiq import Message

from playbill.errors import InvalidInputError, PayloadTooLargeError
from playbill.observe.trace import current_traceparent, new_traceparent
from playbill.store.port import NewJob

if TYPE_CHECKING:
    from playbill.broker.base import PlaybillBroker

#: Message options that Playbill writes.
OPTION_TRACE = "traceparent"
OPTION_SENSITIVE = "sensitive"
OPTION_GROUP = "group_completion_uuid"
OPTION_GROUP_CALLBACKS = "group_completion_callbacks"


@dataclass(frozen=True, slots=True)
class EnqueueOptions:
    """Checked options of one enqueue (see ``playbill.enqueue``)."""

    delay_s: float = 0.0
    run_at: datetime | None = None
    key: str | None = None
    tenant: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 5


def build_job(broker: PlaybillBroker, message: Message[Any], options: EnqueueOptions) -> NewJob:
    """Encode and check a message.

    Raises:
        InvalidInputError: Arguments that cannot be serialised, or a negative delay.
        PayloadTooLargeError: The encoded message is over the limit.
    """
    if options.delay_s < 0:
        raise InvalidInputError("delay", f"{options.delay_s:g} s is in the past; give 0 or more")
    check_message_options(message.options)
    body = _encode(_annotated(broker, message))
    limit = broker.settings.payload_limit_bytes
    if len(body) > limit:
        raise PayloadTooLargeError(
            "args",
            f"the encoded message of {message.actor_name} has {len(body)} bytes, over the limit of {limit}; "
            "store the data elsewhere and pass a reference, or raise PLAYBILL_PAYLOAD_LIMIT_BYTES",
        )
    return NewJob(
        id=message.message_id,
        queue=message.queue_name,
        actor=message.actor_name,
        message=body,
        priority=options.priority,
        tenant=options.tenant,
        key=options.key,
        tags=options.tags,
        delay_s=options.delay_s,
        run_at=options.run_at,
    )


def check_message_options(options: Mapping[str, Any]) -> None:
    """Refuse Dramatiq options that could never work.

    Raises:
        InvalidInputError: A retry count, backoff, time limit or age is negative or no number.
    """
    for name in ("max_retries", "min_backoff", "max_backoff", "time_limit", "max_age"):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            raise InvalidInputError(name, f"{value!r} is not a number >= 0; leave it out for the default")


def _annotated(broker: PlaybillBroker, message: Message[Any]) -> Message[Any]:
    """The message with trace context and the places of its sensitive arguments."""
    extra: dict[str, Any] = {}
    if OPTION_TRACE not in message.options:
        extra[OPTION_TRACE] = current_traceparent() or new_traceparent()
    actor = broker.actors.get(message.actor_name)
    if actor is not None and actor.options.get("sensitive"):
        extra[OPTION_SENSITIVE] = _sensitive_places(actor.fn, tuple(actor.options["sensitive"]), len(message.args))
    return message.copy(options=extra) if extra else message


def _encode(message: Message[Any]) -> bytes:
    try:
        return message.encode()
    except Exception as error:  # the encoder is the user's choice: any class may come
        culprit = _unserialisable(message)
        raise InvalidInputError(
            culprit, f"cannot be serialised for {message.actor_name}: {error}; pass plain JSON values"
        ) from error


def _unserialisable(message: Message[Any]) -> str:
    from dramatiq import get_encoder

    places: list[tuple[str, Any]] = [(f"args[{i}]", value) for i, value in enumerate(message.args)]
    places += [(f"kwargs.{name}", value) for name, value in message.kwargs.items()]
    places += [(f"options.{name}", value) for name, value in message.options.items()]
    for place, value in places:
        try:
            get_encoder().encode({"value": value})
        except Exception:  # noqa: BLE001 - this is the one
            return place
    return "message"


@lru_cache(maxsize=1024)
def _sensitive_places(fn: Any, names: Sequence[str], positional: int) -> list[int | str]:
    """Where sensitive arguments stand in a message: indexes of positional ones, names of the others."""
    target = inspect.unwrap(fn)
    # A class-based actor is called through its instance; its parameters stand in `perform`.
    parameters = list(inspect.signature(getattr(target, "perform", target)).parameters)
    places: list[int | str] = [i for i, name in enumerate(parameters[:positional]) if name in names]
    return [*places, *names]
