"""From a Dramatiq message and the caller's options to a row: everything is checked before anything is written."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dramatiq import Message, get_encoder
from dramatiq.encoder import JSONEncoder

from playbill.errors import InvalidInputError, PayloadTooLargeError
from playbill.observe.redact import is_message
from playbill.observe.trace import current_traceparent, new_traceparent
from playbill.policy.resolve import check_options
from playbill.store.values import NewJob

if TYPE_CHECKING:
    from playbill.broker.base import PlaybillBroker

#: Options that name the actor to be sent what becomes of a job.
CALLBACKS = ("on_success", "on_failure", "on_retry_exhausted")
#: Message options that Playbill writes.
OPTION_TRACE = "traceparent"
OPTION_SENSITIVE = "sensitive"
OPTION_GROUP = "group_completion_uuid"
OPTION_GROUP_CALLBACKS = "group_completion_callbacks"
OPTION_PIPE_TARGET = "pipe_target"

#: An id is a message property on RabbitMQ, which holds so much (AMQP 0-9-1, 4.2.5.3).
MAX_ID_BYTES = 255
#: A queue's name too; the names of its parking queue and of Dramatiq's delay queue are a little longer.
MAX_QUEUE_BYTES = 200


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
        InvalidInputError: Arguments that cannot be serialised, options that mean nothing, or a name that is too long.
        PayloadTooLargeError: The encoded message is over the limit.
    """
    check_id(message.message_id)
    check_queue_name(message.queue_name)
    check_options(message.options)
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


def check_id(message_id: object) -> None:
    """Refuse an id that RabbitMQ could not carry: it would hold up the messages of others.

    Raises:
        InvalidInputError: It is no text of 1 to 255 bytes.
    """
    if not isinstance(message_id, str) or not 1 <= len(message_id.encode(errors="replace")) <= MAX_ID_BYTES:
        raise InvalidInputError("id", f"{message_id!r:.80} is no text of 1 to {MAX_ID_BYTES} bytes")


def check_queue_name(queue: str) -> None:
    """Refuse a queue name that RabbitMQ could not carry.

    Raises:
        InvalidInputError: It is longer than 200 bytes.
    """
    size = len(queue.encode(errors="replace"))
    if size > MAX_QUEUE_BYTES:
        raise InvalidInputError("queue", f"{queue[:40]!r}... has {size} bytes, over the limit of {MAX_QUEUE_BYTES}")


def check_callbacks(broker: PlaybillBroker, message: Message[Any]) -> None:
    """Refuse callbacks that nobody could be sent to: the worker would find out once the job has ended.

    Raises:
        InvalidInputError: ``on_success``, ``on_failure`` or ``on_retry_exhausted`` names no actor declared here.
    """
    for options in (message.options, broker.actors[message.actor_name].options):
        for option in CALLBACKS:
            callback = options.get(option)
            name = getattr(callback, "actor_name", callback)
            if name and name not in broker.actors:
                raise InvalidInputError(
                    option, f"no actor {name!r} is declared here; import the module that defines it"
                )


def _annotated(broker: PlaybillBroker, message: Message[Any]) -> Message[Any]:
    """The message with trace context and the places of its sensitive arguments, those of messages within it too."""
    extra: dict[str, Any] = {}
    if OPTION_TRACE not in message.options:
        extra[OPTION_TRACE] = current_traceparent() or new_traceparent()
    extra |= _sensitive_options(broker, message.actor_name, message.args, message.options)
    return message.copy(options=extra) if extra else message


def _sensitive_options(
    broker: PlaybillBroker, actor_name: str, args: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options that say where secrets are: in this message, and in those that follow it."""
    extra: dict[str, Any] = {}
    actor = broker.actors.get(actor_name)
    if actor is not None and actor.options.get("sensitive"):
        extra[OPTION_SENSITIVE] = _sensitive_places(actor.fn, tuple(actor.options["sensitive"]), len(args))
    if isinstance(target := options.get(OPTION_PIPE_TARGET), Mapping):
        extra[OPTION_PIPE_TARGET] = _sensitive_message(broker, target)
    if isinstance(callbacks := options.get(OPTION_GROUP_CALLBACKS), (list, tuple)):
        extra[OPTION_GROUP_CALLBACKS] = [_sensitive_message(broker, each) for each in callbacks]
    return extra


def _sensitive_message(broker: PlaybillBroker, message: Any) -> Any:
    if not is_message(message):
        return message
    options = message["options"]
    extra = _sensitive_options(broker, message["actor_name"], message["args"], options)
    return {**message, "options": {**options, **extra}}


def _encode(message: Message[Any]) -> bytes:
    try:
        body = message.encode()
    except Exception as error:  # the encoder is the user's choice: any class may come
        culprit = _unserialisable(message)
        raise InvalidInputError(
            culprit, f"cannot be serialised for {message.actor_name}: {error}; pass plain JSON values"
        ) from error
    # Python writes NaN and Infinity as no other reader of JSON understands them. Nearly no body holds these words.
    if (b"NaN" in body or b"Infinity" in body) and type(get_encoder()) is JSONEncoder:
        _refuse_no_json(message)
    return body


def _refuse_no_json(message: Message[Any]) -> None:
    for place, value in _arguments(message):
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise InvalidInputError(
                place,
                f"NaN and infinities are no JSON, so {message.actor_name} cannot be sent them; pass None or a text",
            ) from None
    for follower in (message.options.get(OPTION_PIPE_TARGET), *(message.options.get(OPTION_GROUP_CALLBACKS) or ())):
        if is_message(follower):
            _refuse_no_json(Message(**follower))


def _unserialisable(message: Message[Any]) -> str:
    options = [(f"options.{name}", value) for name, value in message.options.items()]
    for place, value in [*_arguments(message), *options]:
        try:
            get_encoder().encode({"value": value})
        except Exception:  # noqa: BLE001 - this is the one
            return place
    return "message"


def _arguments(message: Message[Any]) -> list[tuple[str, Any]]:
    """Each argument with its place."""
    positional = [(f"args[{i}]", value) for i, value in enumerate(message.args)]
    return positional + [(f"kwargs.{name}", value) for name, value in message.kwargs.items()]


@lru_cache(maxsize=1024)
def _sensitive_places(fn: Any, names: Sequence[str], positional: int) -> list[int | str]:
    """Where sensitive arguments stand in a message: indexes of positional ones, names of the others."""
    target = inspect.unwrap(fn)
    # A class-based actor is called through its instance; its parameters stand in `perform`.
    parameters = list(inspect.signature(getattr(target, "perform", target)).parameters)
    places: list[int | str] = [i for i, name in enumerate(parameters[:positional]) if name in names]
    return [*places, *names]
