"""Keeps the worker's lease, and brings what the store has to say: cancellations, new policies, a lost lease."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from playbill.errors import PlaybillError, StoreError
from playbill.observe import events
from playbill.observe.log import get_logger
from playbill.observe.metrics import metrics

if TYPE_CHECKING:
    from playbill.worker.attempt import Attempt
    from playbill.worker.session import WorkerSession

log = get_logger(__name__)

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Heartbeat:
    """A thread that renews the lease every ``heartbeat_s``.

    Args:
        session: The worker.
    """

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="playbill-heartbeat", daemon=True)
        self._lease_until = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def lease_holds(self) -> bool:
        """Whether the lease certainly runs still. False also right after this process or its machine stood still."""
        return time.monotonic() < self._lease_until

    def renewed(self, asked_at: float) -> None:
        """A lease was granted to a request of ``asked_at`` (monotonic, s): before the store's own clock started it."""
        self._lease_until = asked_at + self._session.settings.lease_s

    def stop(self) -> None:
        """Renew no more."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._session.settings.heartbeat_s):
            try:
                self.beat()
            except StoreError as error:
                log.warning(events.STORE_UNAVAILABLE, error=str(error))
            except PlaybillError as error:
                log.exception(events.STORE_ERROR, error=str(error))
            self._check_size()

    def beat(self) -> None:
        """Renew the lease once."""
        session = self._session
        running = {attempt.claimed.id: attempt for attempt in session.running() if not attempt.abandoned}
        asked_at = time.monotonic()
        reply = session.store.heartbeat(
            session.worker_id,
            lease_s=session.settings.lease_s,
            running=sorted(running),
            state="draining" if session.leaving else "running",
        )
        if not reply.known:
            log.error(events.WORKER_LEASE_LOST, worker=session.worker_id)
            session.begin_anew()
            return
        self.renewed(asked_at)
        self._show(running.values())
        now = time.monotonic()
        for job_id in reply.cancelling:
            attempt = running.get(job_id)
            if attempt is not None and attempt.cancel_seen_at is None:
                attempt.context.cancel_requested()
                attempt.cancel_seen_at = now
        if reply.policy_version != session.policies.version:
            session.policies.load()

    def _show(self, running: Iterable[Attempt]) -> None:
        counts = Counter(attempt.claimed.queue for attempt in running)
        for queue in self._session.queues:
            metrics().running.labels(queue).set(counts[queue])

    def _check_size(self) -> None:
        limit_mb = self._session.settings.max_memory_mb
        if limit_mb is not None and resident_mb() > limit_mb:
            self._session.leave(f"resident size over {limit_mb} MB")


def resident_mb() -> float:
    """Resident size of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE_BYTES / 1_000_000
