"""The scheduler's way to the broker: nothing is taken for it in vain, nothing is published by who leads no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from playbill.broker.port import Outgoing, Publisher
from playbill.scheduler.decisions import may_hand_over
from playbill.store.values import Publishable


class Outbound:
    """Publishes for the leader.

    Args:
        publisher: The transport.
        leads: Whether this process leads now.
        patience_s: How long confirms may be owed before more is handed over all the same, s.
        monotonic: The clock.
    """

    def __init__(
        self, publisher: Publisher, *, leads: Callable[[], bool], patience_s: float, monotonic: Callable[[], float]
    ) -> None:
        self.publisher = publisher
        self._leads = leads
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._owed_since: float | None = None

    @property
    def healthy(self) -> bool:
        """Whether messages flow."""
        return self.publisher.healthy

    def ready(self) -> bool:
        """Whether rows may be taken for it now."""
        healthy = self.publisher.healthy
        now = self._monotonic()
        if not healthy or self.publisher.flush(0.0):
            self._owed_since = None
        elif self._owed_since is None:
            self._owed_since = now
        owed_s = None if self._owed_since is None else now - self._owed_since
        go = may_hand_over(healthy=healthy, owed_s=owed_s, patience_s=self._patience_s)
        if go:
            self._owed_since = None
        return go

    def send(self, jobs: Sequence[Publishable]) -> int:
        """Publish, unless the lead was lost since the rows were taken; then the next leader's relay does.

        Returns:
            How many were handed over.
        """
        if not jobs or not self._leads():
            return 0
        self.publisher.publish(
            [Outgoing(id=job.id, epoch=job.epoch, queue=job.queue, body=job.message) for job in jobs]
        )
        return len(jobs)
