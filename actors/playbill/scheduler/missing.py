"""Finds messages that the broker has lost: purged, dropped, or gone with their queue."""

from __future__ import annotations

from collections import Counter
from typing import Final

from playbill.errors import BrokerUnavailableError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics
from playbill.scheduler.decisions import Excess, judge_missing
from playbill.scheduler.outbound import Outbound
from playbill.scheduler.tasks import BATCH, Means

MISSING_S: Final = 5.0
DEPTH_TIMEOUT_S: Final = 2.0

#: Largest prefetch of a worker process for one queue; the worker caps it there.
MOST_PREFETCHED: Final = 256

_log = get_logger(__name__)


class MissingMessages:
    """Compares, queue by queue, what waits in the store with what the broker holds."""

    name = "missing"

    def __init__(self, means: Means, outbound: Outbound) -> None:
        self._means = means
        self._outbound = outbound
        self._excess: dict[str, Excess] = {}

    def run(self) -> float:
        """See ``Task``."""
        if not self._outbound.ready():
            self._excess.clear()
            return MISSING_S
        store = self._means.store
        awaiting = {queue: count for queue, count in store.awaiting_broker().items() if count > 0}
        try:
            ready = self._outbound.publisher.depths(sorted(awaiting), DEPTH_TIMEOUT_S)
        except BrokerUnavailableError:
            self._excess.clear()
            return MISSING_S
        held = self._could_hold() if awaiting else Counter()
        before, self._excess = self._excess, {}
        for queue, count in sorted(awaiting.items()):
            verdict = judge_missing(
                before.get(queue), awaiting=count, ready=ready.get(queue, 0), could_hold=held[queue]
            )
            if verdict.excess is not None:
                self._excess[queue] = verdict.excess
            if verdict.republish:
                self._republish(queue, verdict.republish)
        return MISSING_S

    def _could_hold(self) -> Counter[str]:
        held: Counter[str] = Counter()
        for worker in self._means.store.workers():
            for queue in worker.queues:
                held[queue] += MOST_PREFETCHED
        return held

    def _republish(self, queue: str, excess: int) -> None:
        """At most a batch: what is left is found again, and the broker is not flooded."""
        jobs = self._means.store.missing(
            queue,
            excess=min(excess, BATCH),
            relay_after_s=self._means.settings.relay_after_s,
            leader=self._means.holder,
        )
        if self._outbound.send(jobs):
            metrics().missing.inc(len(jobs))
            _log.warning(events.JOBS_MISSING, queue=queue, jobs=len(jobs))
