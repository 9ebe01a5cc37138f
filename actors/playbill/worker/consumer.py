"""Dramatiq's consumers: each claims for one queue what the slots allow and yields it to Dramatiq's worker threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.common import dq_name
from dramatiq.errors import DecodeError

from playbill.broker.port import Delivery, Intake
from playbill.errors import InvalidInputError, StoreError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics
from playbill.store.values import Claimed, ClaimResult, Verdict
from playbill.worker.attempt import Attempt, JobProxy
from playbill.worker.intake import MISSING_REASON, Garbage, Incoming, Sorter

if TYPE_CHECKING:
    from playbill.worker.session import WorkerSession

log = get_logger(__name__)

_LOCKED_PAUSE_S = 0.05
_LEASE_PAUSE_S = 0.1
_DELAYED_PREFETCH = 100
_SOON = timedelta(seconds=1)  #: more than clocks differ
_OUTAGE_PAUSE_S = 0.5


class JobConsumer(dramatiq.Consumer):  # type: ignore[misc, unused-ignore]
    """What both sources have in common: slots, suspects, and handing finishes on."""

    def __init__(self, session: WorkerSession, queue: str, timeout_ms: int) -> None:
        self.session = session
        self.queue = queue
        self.timeout_s = timeout_ms / 1000
        self._ready: deque[Attempt] = deque()
        self._suspects: deque[Attempt] = deque()
        self._hungry = False

    def __next__(self) -> JobProxy | None:
        """The next claimed message, or None after a while."""
        if self.session.leaving:
            self.leave()
            self.session.slots.wait_for_change(self.timeout_s)
        elif not self._ready:
            try:
                self._fill()
            except StoreError as error:
                log.warning(events.STORE_UNAVAILABLE, queue=self.queue, error=str(error))
                self.session.wait(_OUTAGE_PAUSE_S)
        try:
            return self._ready.popleft().message
        except IndexError:  # nothing claimed, or a drain has just taken it back
            return None

    def leave(self) -> None:
        """The worker drains: hold nothing that is not claimed."""

    def _fill(self) -> None:
        """Claim, if slots allow."""
        session = self.session
        if not session.heartbeat.lease_holds:
            session.wait(_LEASE_PAUSE_S)  # what is claimed without a lease is nobody's
            return
        if self._suspects or session.alone:
            self._run_suspect()
            return
        room = session.slots.grant(self.queue, hungry=self._hungry)
        if room <= 0:
            self._no_room()
            return
        self._claim(room)

    def _no_room(self) -> None:
        self.session.slots.wait_for_room(self.queue, min(self.timeout_s, 0.1))

    def _claim(self, room: int) -> None:
        raise NotImplementedError  # pragma: no cover - each source has its own

    def take_up(self, claimed: Sequence[Claimed], messages: dict[str, dramatiq.Message[Any]], *, worker: str) -> None:
        """Make attempts of claimed jobs; suspects wait until they can run alone.

        Never raises: nobody but the caller knows that these jobs are claimed.
        """
        for job in sorted(claimed, key=lambda each: each.run_at):
            try:
                attempt = Attempt(job, messages[job.id], self.session, worker=worker)
            except InvalidInputError as error:
                # A plain producer's options are checked by nobody before.
                self.session.fail_claimed(job, "InvalidOption", str(error))
                continue
            except Exception as error:
                log.exception(events.JOB_FAILED, job_id=job.id, actor=job.actor)
                self.session.fail_claimed(job, "InvalidMessage", f"cannot be run: {type(error).__name__}: {error}")
                continue
            if job.suspect:
                self._suspects.append(attempt)
                self.session.alone = True
            else:
                self._ready.append(attempt)

    def _run_suspect(self) -> None:
        """Run a job that may have killed its worker, once nothing else runs here."""
        session = self.session
        if not self._suspects or session.slots.claimed > session.suspects_waiting():
            session.slots.wait_for_change(0.05)
            return
        if session.begin_alone(self._suspects[0]):
            self._ready.append(self._suspects.popleft())

    def suspects(self) -> int:
        """Suspects claimed and waiting here."""
        return len(self._suspects)

    def give_back(self) -> list[Attempt]:
        """Attempts claimed and not yielded, to be released. One by one: the consumer's own thread may take some."""
        attempts = []
        for waiting in (self._ready, self._suspects):
            while waiting:
                try:
                    attempts.append(waiting.popleft())
                except IndexError:
                    break
        return attempts

    # -- Dramatiq's side -----------------------------------------------------------------------------------------
    def ack(self, message: dramatiq.MessageProxy) -> None:
        """The message is through; its finish is handed on."""
        self.session.ended(message.attempt)

    nack = ack

    def requeue(self, messages: Any) -> None:
        """Dramatiq stops: release what it has not started."""
        self.session.release([message.attempt for message in messages])

    def close(self) -> None:
        """Dramatiq replaces a consumer that raised: what it had claimed goes back."""
        self.session.release(self.give_back(), "its consumer failed")


class StoreConsumer(JobConsumer):
    """Claims straight from the store (no broker)."""

    def __init__(self, session: WorkerSession, queue: str, timeout_ms: int) -> None:
        super().__init__(session, queue, timeout_ms)
        self._undeferred: list[Claimed] = []  #: claimed, of unknown actors, and the store was away

    def _fill(self) -> None:
        self._defer_unknown()  # first, since they hold slots
        super()._fill()

    def _claim(self, room: int) -> None:
        session = self.session
        worker = session.worker_id
        metrics().claims.inc()
        claimed = session.store.claim_next([self.queue], room, worker=worker)
        self._hungry = len(claimed) == room
        if not claimed:
            session.idle_wait(min(self.timeout_s, session.poll_s))
            return
        self.take_claimed(claimed, worker=worker)

    def take_claimed(self, claimed: Sequence[Claimed], *, worker: str) -> None:
        """Make attempts of claimed jobs, those of unknown actors and garbage aside."""
        session = self.session
        session.slots.claimed_by(self.queue, len(claimed))
        known: list[Claimed] = []
        messages: dict[str, dramatiq.Message[Any]] = {}
        for job in claimed:
            if job.actor not in session.broker.actors:
                self._undeferred.append(job)
                continue
            try:
                messages[job.id] = dramatiq.Message.decode(job.message or b"")
            except DecodeError as error:
                session.fail_claimed(job, "MalformedMessage", f"cannot be decoded: {error.error}")
                continue
            known.append(job)
        self.take_up(known, messages, worker=worker)
        self._defer_unknown()

    def _defer_unknown(self) -> None:
        while self._undeferred:
            self.session.defer_claimed(self._undeferred[-1])
            self._undeferred.pop()


class BrokerConsumer(JobConsumer):
    """Claims what RabbitMQ delivers, and acknowledges when the claim has committed."""

    def __init__(self, session: WorkerSession, queue: str, timeout_ms: int, intake: Intake) -> None:
        super().__init__(session, queue, timeout_ms)
        self._intake = intake
        self._sorter = Sorter(session, queue)
        self._held: list[Incoming] = []  #: deliveries to ask for again: their rows were locked, or the store was away
        self._unadopted: list[Delivery] = []
        self._garbage: list[Garbage] = []  #: to be parked: the store was away
        self._suspended = False
        self._prefetch = session.slots.prefetch
        #: Where plain Dramatiq producers put what is not due. Nobody but them makes it.
        self._delayed_queue = dq_name(queue)
        intake.open(queue, self._prefetch)
        intake.open(self._delayed_queue, _DELAYED_PREFETCH, create=False)
        # The consumer that this one replaces may have left them otherwise.
        intake.set_prefetch(queue, self._prefetch)
        intake.resume(queue)

    def _fill(self) -> None:
        self._park_garbage()
        self._adopt_delayed()
        super()._fill()

    def leave(self) -> None:
        """Give back what was delivered and not claimed."""
        self._intake.reject_to_broker([each.delivery for each in self._held] + self._unadopted)
        self._held, self._unadopted = [], []

    def _park_garbage(self) -> None:
        """Parked messages are acknowledged once they are stored."""
        if self._garbage:
            self._sorter.park(self._garbage)
            self._intake.ack([each.delivery for each in self._garbage])
            self._garbage = []

    def _sort(self, deliveries: Sequence[Delivery]) -> list[Incoming]:
        incoming, garbage = self._sorter.sort(deliveries)
        self._garbage += garbage
        return incoming

    def _adopt_delayed(self) -> None:
        """What a plain producer has delayed becomes a row that waits for its time, whether slots are free or not."""
        deliveries = self._unadopted or self._intake.take(self._delayed_queue, _DELAYED_PREFETCH, 0.0)
        if deliveries:
            self._unadopted = deliveries
            incoming = self._sort(deliveries)
            self._unadopted = [each.delivery for each in incoming]
            self._sorter.adopt(incoming)
            # What is due by now is claimed like any other; a claim refuses what is not due after all.
            soon = datetime.now(UTC) + _SOON
            due = [each for each in incoming if each.run_at is None or each.run_at <= soon]
            self._held += due
            claimed = {id(each) for each in due}
            self._intake.ack([each.delivery for each in incoming if id(each) not in claimed])
            self._unadopted = []

    def close(self) -> None:
        """What was delivered and not claimed goes back too."""
        super().close()
        self.leave()

    def _no_room(self) -> None:
        if self.session.slots.slow:
            self.suspend()
        super()._no_room()

    def suspend(self) -> None:
        """Hold no message that another worker could start."""
        if not self._suspended:
            self._suspended = True
            self._intake.reject_to_broker(self._intake.suspend(self.queue))

    def _claim(self, room: int) -> None:
        self._tune()
        incoming, self._held = self._held, []
        if not incoming:
            deliveries = self._intake.take(self.queue, room, min(self.timeout_s, 0.5))
            self._hungry = len(deliveries) == room
            if not deliveries:
                return
            incoming = self._sort(deliveries)
        self._claim_incoming(incoming)

    def _claim_incoming(self, incoming: list[Incoming]) -> None:
        worker = self.session.worker_id
        try:
            runnable, result = self._ask_store(incoming, worker)
        except StoreError as error:
            if type(error) is not StoreError:  # it is the store that cannot be used now
                self._held += incoming
                raise
            self._claim_singly(incoming, error)
        else:
            self._take_answer(incoming, runnable, result, worker)

    def _claim_singly(self, incoming: list[Incoming], error: StoreError) -> None:
        """The store refuses something for good, and would refuse all that comes with it: find it and park it."""
        if len(incoming) == 1:
            log.error(events.STORE_ERROR, queue=self.queue, error=str(error))
            self._garbage.append(Garbage.of(self.queue, incoming[0].delivery, f"the store refuses it: {error}"))
            self._park_garbage()
            return
        for position, each in enumerate(incoming):
            try:
                self._claim_incoming([each])
            except StoreError:
                self._held += incoming[position + 1 :]
                raise

    def _ask_store(self, incoming: list[Incoming], worker: str) -> tuple[list[Incoming], ClaimResult]:
        self._sorter.adopt(incoming)
        runnable = self._sorter.defer_unknown(incoming)
        if not runnable:
            return [], ClaimResult((), {})
        metrics().claims.inc()
        return runnable, self.session.store.claim([each.ref for each in runnable], worker=worker)

    def _take_answer(
        self, incoming: list[Incoming], runnable: list[Incoming], result: ClaimResult, worker: str
    ) -> None:
        """Take up what was claimed, acknowledge what is decided, keep what is to be asked for again."""
        slots = self.session.slots
        slots.claimed_by(self.queue, len(result.claimed))
        # Before anything that may fail: nobody else knows that these are claimed.
        self.take_up(result.claimed, {each.ref.id: each.message for each in runnable}, worker=worker)
        if slots.slow and slots.claimed >= slots.threads:
            # Before the ack: an ack makes room for messages that would wait here for a slot.
            self.suspend()
        locked = [each for each in runnable if result.refused.get(each.ref.id) is Verdict.LOCKED]
        missing = [each for each in runnable if result.refused.get(each.ref.id) is Verdict.MISSING]
        self._held += locked
        kept = {id(each) for each in (*locked, *missing)}
        self._intake.ack([each.delivery for each in incoming if id(each) not in kept])
        self._garbage += [Garbage.of(self.queue, each.delivery, MISSING_REASON) for each in missing]
        self._park_garbage()
        if locked and not result.claimed:
            self.session.wait(_LOCKED_PAUSE_S)

    def _tune(self) -> None:
        """Follow the service time with the prefetch; renew only for a factor of two, as each costs a round trip."""
        wanted = self.session.slots.prefetch
        if self._suspended:
            self._intake.set_prefetch(self.queue, wanted)
            self._intake.resume(self.queue)
            self._suspended = False
            self._prefetch = wanted
        elif wanted >= 2 * self._prefetch or 2 * wanted <= self._prefetch:
            self._intake.set_prefetch(self.queue, wanted)
            self._prefetch = wanted
