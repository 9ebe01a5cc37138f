"""What the leader does, one small task each: a task does a bounded piece and says how soon it wants to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics
from playbill.policy.states import JobStatus
from playbill.scheduler.decisions import next_run_s, next_statistics_s
from playbill.scheduler.outbound import Outbound
from playbill.settings import Settings
from playbill.store.port import Store
from playbill.store.values import Handover, Rescued

#: Rows of one statement: short transactions, so that workers never wait long for a lock.
BATCH: Final = 1000
RESCUE_BATCH: Final = 500

#: A job that is due is published within half a second: this interval, the query and the publish.
RELEASE_S: Final = 0.2
RELAY_BUSY_S: Final = 0.2
#: A raw connection's job is published within a second of its commit.
RELAY_IDLE_S: Final = 0.5
#: Pause while the broker is away or owes confirms.
BROKER_PAUSE_S: Final = 0.05
TO_STORE_BUSY_S: Final = 0.25
TO_STORE_IDLE_S: Final = 1.0
RESCUE_S: Final = 1.0
EXPIRE_S: Final = 5.0
PURGE_S: Final = 60.0
MERGE_S: Final = 60.0
STATISTICS_S: Final = 5.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What tasks work with. ``outbound`` is None where workers claim from the store."""

    store: Store
    settings: Settings
    holder: str
    outbound: Outbound | None
    may_rescue: Callable[[], bool]
    monotonic: Callable[[], float]


class Task(Protocol):
    """One duty of the leader."""

    @property
    def name(self) -> str:
        """Name in logs and metrics."""

    def run(self) -> float:
        """Do a bounded piece of work; returns the pause before the next one, s."""


class _Task:
    name = ""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._store = means.store
        self._settings = means.settings


class _BrokerTask(_Task):
    def __init__(self, means: Means, outbound: Outbound) -> None:
        super().__init__(means)
        self._outbound = outbound


class ReleaseDue(_BrokerTask):
    """Hand jobs that became due over to the broker."""

    name = "release"

    def run(self) -> float:
        """See ``Task``."""
        if not self._outbound.ready():
            return BROKER_PAUSE_S
        jobs = self._store.release_due(
            limit=BATCH, relay_after_s=self._settings.relay_after_s, leader=self._means.holder
        )
        if self._outbound.send(jobs):
            metrics().released.inc(len(jobs))
            _log.debug(events.JOBS_RELEASED, jobs=len(jobs))
        return next_run_s(len(jobs), limit=BATCH, busy_s=RELEASE_S, idle_s=RELEASE_S)


class Relay(_BrokerTask):
    """Publish what the broker has not confirmed to its producer."""

    name = "relay"

    def run(self) -> float:
        """See ``Task``."""
        if not self._outbound.ready():
            return BROKER_PAUSE_S
        jobs = self._store.take_outbox(
            limit=BATCH, relay_after_s=self._settings.relay_after_s, leader=self._means.holder
        )
        if self._outbound.send(jobs):
            metrics().relayed.inc(len(jobs))
            _log.info(events.JOBS_RELAYED, jobs=len(jobs))
        return next_run_s(len(jobs), limit=BATCH, busy_s=RELAY_BUSY_S, idle_s=RELAY_IDLE_S)


class ToStore(_Task):
    """Without a broker: let workers claim from the store what was once meant for a broker."""

    name = "to_store"

    def run(self) -> float:
        """See ``Task``."""
        moved = self._store.to_store(limit=BATCH, leader=self._means.holder)
        if moved:
            metrics().released.inc(moved)
            _log.info(events.JOBS_RELEASED, jobs=moved, to="store")
        return next_run_s(moved, limit=BATCH, busy_s=TO_STORE_BUSY_S, idle_s=TO_STORE_IDLE_S)


class Rescue(_Task):
    """Take jobs back from workers whose lease has ended."""

    name = "rescue"

    def run(self) -> float:
        """See ``Task``."""
        if not self._means.may_rescue():
            return RESCUE_S
        outbound = self._means.outbound
        rescued = self._store.rescue(
            poison_limit=self._settings.poison_limit,
            limit=RESCUE_BATCH,
            handover=self._handover(outbound),
            relay_after_s=self._settings.relay_after_s,
            leader=self._means.holder,
        )
        self._tell(rescued)
        if outbound is not None and outbound.healthy:
            outbound.send([job.publish for job in rescued if job.publish is not None])
        return next_run_s(len(rescued), limit=RESCUE_BATCH, busy_s=RESCUE_S, idle_s=RESCUE_S)

    @staticmethod
    def _handover(outbound: Outbound | None) -> Handover:
        if outbound is None:
            return Handover.STORE
        # A broker that is away gets it from the relay, as soon as it is back.
        return Handover.BROKER if outbound.healthy else Handover.RELAY

    @staticmethod
    def _tell(rescued: list[Rescued]) -> None:
        for job in rescued:
            event = events.JOB_POISONED if job.failed else events.JOB_RESCUED
            metrics().rescued.labels("failed" if job.failed else "returned").inc()
            _log.warning(event, job_id=job.id, queue=job.queue, worker=job.worker)


class Expire(_Task):
    """Fail jobs that waited longer than their queue allows."""

    name = "expire"

    def run(self) -> float:
        """See ``Task``."""
        expired = self._store.expire(limit=BATCH, leader=self._means.holder)
        if expired:
            metrics().expired.inc(expired)
            _log.warning(events.JOBS_EXPIRED, jobs=expired)
        return next_run_s(expired, limit=BATCH, busy_s=EXPIRE_S, idle_s=EXPIRE_S)


class Purge(_Task):
    """Remove ended jobs past their retention."""

    name = "purge"

    def run(self) -> float:
        """See ``Task``."""
        purged = self._store.purge(limit=BATCH, leader=self._means.holder)
        if purged:
            metrics().purged.inc(purged)
            _log.info(events.JOBS_PURGED, jobs=purged)
        return next_run_s(purged, limit=BATCH, busy_s=PURGE_S, idle_s=PURGE_S)


class MergeRollups(_Task):
    """Merge the rollups of single workers."""

    name = "merge"

    def run(self) -> float:
        """See ``Task``."""
        self._store.merge_rollups(leader=self._means.holder)
        return MERGE_S


class Statistics(_Task):
    """Show the figures of all queues in the metrics."""

    name = "statistics"

    def run(self) -> float:
        """See ``Task``."""
        began = self._means.monotonic()
        counts = self._store.queue_counts()
        took_s = self._means.monotonic() - began
        metrics().show_queues(
            {
                (figures.queue, status.value): getattr(figures, status.value)
                for figures in counts
                for status in JobStatus
            },
            {figures.queue: figures.oldest_waiting_s or 0.0 for figures in counts},
        )
        return next_statistics_s(took_s, least_s=STATISTICS_S)
