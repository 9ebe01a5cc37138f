"""The scheduler's loop: stay in contact, be elected, do what is due. Two of them at once do no harm.

One thread does everything in turn. A task does a bounded piece of work at a time, so none keeps another waiting, and
the lease is renewed between any two pieces.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from playbill.broker.port import Publisher
from playbill.errors import StoreError, StoreUnavailableError
from playbill.observe import events
from playbill.observe.health import HealthServer
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics
from playbill.scheduler.contact import Contact, was_frozen
from playbill.scheduler.decisions import backoff_s
from playbill.scheduler.election import Election, holder_id
from playbill.scheduler.missing import MissingMessages
from playbill.scheduler.outbound import Outbound
from playbill.scheduler.tasks import (
    Expire,
    Means,
    MergeRollups,
    Purge,
    Relay,
    ReleaseDue,
    Rescue,
    Statistics,
    Task,
    ToStore,
)
from playbill.settings import Settings
from playbill.store.port import Store

#: Pause after a task failed by itself, s.
TASK_FAILURE_PAUSE_S: Final = 5.0
#: The leader's lease is renewed four times in its life, so three renewals may fail. A campaign also proves contact with
#: the store, so there are four in a worker's lease too.
CAMPAIGNS_PER_LEASE: Final = 4.0
#: Longest wait between two ticks, s; also bounds how late a stop is noticed by a frozen clock.
LONGEST_WAIT_S: Final = 1.0
#: Leases without a tick after which the process calls itself unhealthy.
UNHEALTHY_AFTER_LEASES: Final = 3.0

_log = get_logger(__name__)


class Scheduler:
    """The leader-elected service.

    Args:
        store: The store.
        settings: Leases and limits.
        publisher: To the broker, its confirms already tied to ``store.settle``; None where workers claim from the
            store. The caller closes it.
        monotonic: The clock.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        publisher: Publisher | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._monotonic = monotonic
        self._contact = Contact()
        self._last_tick: float | None = None
        self._failures = 0
        self._election = Election(
            store,
            holder=holder_id(),
            lease_s=settings.leader_lease_s,
            every_s=min(settings.leader_lease_s, settings.lease_s) / CAMPAIGNS_PER_LEASE,
            monotonic=monotonic,
        )
        outbound = None
        if publisher is not None:
            outbound = Outbound(
                publisher, leads=self._election.leads, patience_s=settings.relay_after_s, monotonic=monotonic
            )
        means = Means(store, settings, self._election.holder, outbound, self._may_rescue, monotonic)
        self._agenda: dict[Task, float] = dict.fromkeys(_tasks(means), monotonic())

    @property
    def holder(self) -> str:
        """Identity of this candidate."""
        return self._election.holder

    @property
    def leads(self) -> bool:
        """Whether this scheduler leads now."""
        return self._election.leads()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then give the lead up.

        Raises:
            StoreNotMigratedError: The store has no tables, or older ones.
            StoreTooNewError: The store needs newer code.
        """
        health = self._serve()
        _log.info(events.SCHEDULER_STARTED, holder=self.holder)
        try:
            self._check(stop)
            while not stop.is_set():
                stop.wait(self.tick())
        finally:
            self._election.resign()
            if health is not None:
                health.stop()
            _log.info(events.SCHEDULER_STOPPED, holder=self.holder)

    def tick(self) -> float:
        """Do what is due now.

        Returns:
            Time until something is due again, s.
        """
        try:
            self._campaign()
            now = self._monotonic()
            for task in [task for task, due_at in self._agenda.items() if due_at <= now]:
                self._campaign()  # between any two tasks: a slow one must not cost the lead
                if not self._election.leads():
                    break
                self._run(task)
        except StoreUnavailableError as error:
            return self._lost_contact(error)
        return self._until_due_s()

    def health(self) -> str | None:
        """Why this process should be restarted; None while its loop turns."""
        last = self._last_tick
        if last is None:
            return "the loop has not begun yet"
        silent_s = self._monotonic() - last
        if silent_s > UNHEALTHY_AFTER_LEASES * self._settings.leader_lease_s:
            return f"the loop has not turned for {silent_s:.0f} s"
        return None

    # -- one tick ------------------------------------------------------------------------------------------------
    def _campaign(self) -> None:
        self._notice_freeze()
        if self._election.was_leading and not self._election.leads():
            self._election.drop("the lease ran out before it could be renewed")
        if self._monotonic() < self._election.next_at:
            return
        try:
            self._election.campaign()
        except StoreUnavailableError:
            raise
        except StoreError:
            # A refusal, such as a lock that was not free in time: the lease has room for three of these.
            metrics().task_errors.labels("election").inc()
            _log.exception(events.SCHEDULER_TASK_FAILED, task="election")
        else:
            self._met()

    def _notice_freeze(self) -> None:
        now = self._monotonic()
        last, self._last_tick = self._last_tick, now
        if last is not None and was_frozen(last, now, lease_s=self._settings.leader_lease_s):
            _log.warning(events.SCHEDULER_FROZEN, seconds=round(now - last, 1))
            self._contact = Contact()
            self._election.drop("this process stood still for longer than the lease")

    def _run(self, task: Task) -> None:
        """Run one task; whatever is wrong with it alone must not stop the others."""
        try:
            pause_s = task.run()
        except StoreUnavailableError:
            raise
        except Exception:  # noqa: BLE001 - the loop's edge: logged, counted, tried again
            metrics().task_errors.labels(task.name).inc()
            _log.exception(events.SCHEDULER_TASK_FAILED, task=task.name)
            pause_s = TASK_FAILURE_PAUSE_S
        self._agenda[task] = self._monotonic() + pause_s

    def _met(self) -> None:
        """The store has answered a campaign, the one question that is always asked."""
        if self._failures:
            _log.info(events.STORE_AVAILABLE, after_failures=self._failures)
            self._failures = 0
        self._contact = self._contact.met(self._monotonic(), lease_s=self._settings.lease_s)

    def _may_rescue(self) -> bool:
        return self._contact.may_rescue(self._monotonic(), lease_s=self._settings.lease_s)

    def _lost_contact(self, error: StoreUnavailableError) -> float:
        self._contact = Contact()
        pause_s = self._pause_s(error)
        self._election.try_in(pause_s)
        return pause_s

    def _pause_s(self, error: StoreUnavailableError) -> float:
        if not self._failures:
            _log.warning(events.STORE_UNAVAILABLE, error=str(error))
        self._failures += 1
        return backoff_s(self._failures, random.random())

    def _until_due_s(self) -> float:
        now = self._monotonic()
        next_at = self._election.next_at
        if self._election.leads():
            next_at = min(next_at, *self._agenda.values())
        return min(max(0.0, next_at - now), LONGEST_WAIT_S)

    # -- around the loop -----------------------------------------------------------------------------------------
    def _check(self, stop: threading.Event) -> None:
        """Find out whether this code may use the store, as soon as the store answers."""
        while not stop.is_set():
            self._last_tick = self._monotonic()
            try:
                self._store.check()
            except StoreUnavailableError as error:
                stop.wait(self._pause_s(error))
            else:
                return

    def _serve(self) -> HealthServer | None:
        if self._settings.http_port is None:
            return None
        self._last_tick = self._monotonic()
        server = HealthServer(self._settings.http_host, self._settings.http_port, {"loop": self.health})
        server.start()
        return server


def _tasks(means: Means) -> list[Task]:
    """In the order in which they go when several are due: what people wait for comes first."""
    rest: list[Task] = [Rescue(means), Expire(means), Statistics(means), MergeRollups(means), Purge(means)]
    if means.outbound is None:
        return [ToStore(means), *rest]
    return [
        ReleaseDue(means, means.outbound),
        Relay(means, means.outbound),
        MissingMessages(means, means.outbound),
        *rest,
    ]
