"""What RabbitMQ delivered, sorted: tracked messages, messages of plain producers, unknown actors, and garbage."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import DecodeError

from playbill.broker.new_job import check_id
from playbill.broker.port import Delivery
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.store.values import FIRST_EPOCH, ClaimRef, NewJob, ParkedMessage

if TYPE_CHECKING:
    from playbill.worker.session import WorkerSession

log = get_logger(__name__)

MISSING_REASON = "its job is not in the store: another store's message, or past its retention"


@dataclass(slots=True)
class Incoming:
    """A delivery that is a message. ``foreign``: a plain Dramatiq producer published it, it has no row yet."""

    delivery: Delivery
    message: dramatiq.Message[Any]
    ref: ClaimRef
    foreign: bool
    run_at: datetime | None = None  #: when a plain producer wants it to run


@dataclass(frozen=True, slots=True)
class Garbage:
    """A delivery that cannot become a job, as it is to be parked: under one id, however often that is tried."""

    delivery: Delivery
    message: ParkedMessage

    @classmethod
    def of(cls, queue: str, delivery: Delivery, reason: str) -> Garbage:
        """Park it for that reason."""
        return cls(delivery, ParkedMessage(uuid.uuid4().hex, queue, delivery.body, reason, _plain_headers(delivery)))


class Sorter:
    """Decides what each delivery of one queue is.

    Args:
        session: The worker.
        queue: The queue consumed.
    """

    def __init__(self, session: WorkerSession, queue: str) -> None:
        self._session = session
        self._queue = queue

    def sort(self, deliveries: Sequence[Delivery]) -> tuple[list[Incoming], list[Garbage]]:
        """Decode deliveries; what is no message is to be parked."""
        incoming: list[Incoming] = []
        garbage: list[Garbage] = []
        for delivery in deliveries:
            try:
                incoming.append(self._read(delivery))
            except (DecodeError, TypeError, ValueError) as error:
                reason = f"no Dramatiq message: {getattr(error, 'error', error)}"
                garbage.append(Garbage.of(self._queue, delivery, reason))
        return incoming, garbage

    def _read(self, delivery: Delivery) -> Incoming:
        message = dramatiq.Message.decode(delivery.body)
        _check(message)
        job_id, epoch = delivery.id, delivery.epoch
        if job_id is not None and epoch is not None:
            if not isinstance(job_id, str) or not isinstance(epoch, int):
                raise ValueError(f"its headers are of another kind: {job_id!r}, {epoch!r}")
            if not job_id.isprintable():
                raise ValueError(f"its id {job_id!r:.80} has control characters")
            check_id(job_id)
            if message.queue_name != self._queue:  # Dramatiq looks the consumer up by it
                message = message.copy(queue_name=self._queue)
            return Incoming(delivery, message, ClaimRef(job_id, epoch), foreign=False)
        # With its eta, Dramatiq's worker would keep it until then; here the row waits.
        options = dict(message.options)
        eta_ms = options.pop("eta", None)
        plain: dramatiq.Message[Any] = dramatiq.Message(
            self._queue,
            message.actor_name,
            message.args,
            message.kwargs,
            options,
            message.message_id,
            message.message_timestamp,
        )
        return Incoming(delivery, plain, ClaimRef(message.message_id, FIRST_EPOCH), foreign=True, run_at=_time(eta_ms))

    def adopt(self, incoming: Sequence[Incoming]) -> None:
        """Give rows to the messages of plain producers."""
        foreign = [each for each in incoming if each.foreign]
        if not foreign:
            return
        self._session.store.adopt([_adopted(each, self._queue) for each in foreign])
        log.info(events.JOB_ADOPTED, queue=self._queue, jobs=len(foreign))

    def defer_unknown(self, incoming: Sequence[Incoming]) -> list[Incoming]:
        """Put jobs whose actor nobody here knows back for a while; returns the others."""
        actors = self._session.broker.actors
        unknown = [each for each in incoming if each.message.actor_name not in actors]
        if not unknown:
            return list(incoming)
        by_actor: dict[str, list[ClaimRef]] = {}
        for each in unknown:
            by_actor.setdefault(each.message.actor_name, []).append(each.ref)
        for actor, refs in by_actor.items():
            self._session.defer(refs, actor)
        return [each for each in incoming if each.message.actor_name in actors]

    def park(self, garbage: Sequence[Garbage]) -> None:
        """Keep messages that cannot become jobs; safe to repeat."""
        self._session.store.park([each.message for each in garbage])
        for each in garbage:
            message = each.message
            log.error(events.JOB_PARKED, queue=message.queue, reason=message.reason, size_bytes=len(message.body))


def _check(message: dramatiq.Message[Any]) -> None:
    """JSON of the right shape may still hold the wrong types."""
    for name, kind in (("queue_name", str), ("actor_name", str), ("message_id", str), ("options", dict)):
        value = getattr(message, name)
        if not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}, not a {kind.__name__}")  # noqa: TRY004 - one family for the caller
        if isinstance(value, str) and not value.isprintable():
            raise ValueError(f"{name} is {value!r}, which has control characters")
    if not isinstance(message.kwargs, dict):
        raise ValueError(f"kwargs is {message.kwargs!r}, not a dict")  # noqa: TRY004
    check_id(message.message_id)


def _time(eta_ms: Any) -> datetime | None:
    """When a plain producer wants a message to run."""
    if eta_ms is None:
        return None
    try:
        return datetime.fromtimestamp(eta_ms / 1000, UTC)
    except (OverflowError, OSError, TypeError) as error:
        raise ValueError(f"eta is {eta_ms!r}, no time in ms") from error


def _adopted(incoming: Incoming, queue: str) -> NewJob:
    message = incoming.message
    return NewJob(
        id=message.message_id, queue=queue, actor=message.actor_name, message=message.encode(), run_at=incoming.run_at
    )


def _plain_headers(delivery: Delivery) -> dict[str, Any]:
    return {
        str(name): value if isinstance(value, (int, float, bool, type(None))) else str(value).replace("\x00", "\\x00")
        for name, value in delivery.headers.items()
    }
