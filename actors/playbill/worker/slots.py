"""How much a worker may claim: its free slots, and what one flush interval can run besides.

Short jobs are claimed some flush intervals ahead, so that threads never wait for a claim. Long jobs (or jobs of
unknown length) are claimed one a free slot, so that nobody hoards what another worker could start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

#: A mean above this is "slow": no claim ahead, and no message held while all slots are busy, s.
SLOW_S = 0.1
#: Flush intervals of work claimed ahead: one is being committed, one is being claimed.
_INTERVALS_AHEAD = 2
#: Most jobs claimed and not ended, and most messages held, per process.
MAX_WINDOW = 256
#: Weight of the newest job in the moving mean of the service time. It falls fast, or a worker that has seen one long
#: job would take the next hundred short ones singly; it rises slowly, since a stall is noticed by itself.
_RISING = 0.05
_FALLING = 0.25


class Slots:
    """Counts what this process has claimed and shares free slots among its queues by weight.

    Args:
        threads: Jobs that run at once.
        flush_s: The flush interval, s.
        weights: Weight of each queue, >= 1.
    """

    def __init__(self, threads: int, flush_s: float, weights: Mapping[str, int]) -> None:
        self.threads = threads
        self._flush_s = flush_s
        self._weights = dict(weights)
        self._passes = dict.fromkeys(weights, 0.0)
        self._hungry: set[str] = set()
        self.changed = threading.Condition()
        self._claimed = 0
        self._running = 0
        self._mean_s: float | None = None
        self._ended = 0
        self._done = 0
        self._watchers = 0

    # -- figures -------------------------------------------------------------------------------------------------
    @property
    def slow(self) -> bool:
        """Whether jobs are long, or of unknown length."""
        return self._mean_s is None or self._mean_s > SLOW_S

    @property
    def unstarted(self) -> int:
        """Claimed jobs that no thread has taken up yet."""
        return self._claimed - self._running

    @property
    def claimed(self) -> int:
        """Claimed jobs that have not ended."""
        return self._claimed

    @property
    def ended(self) -> int:
        """Jobs ended so far; a figure that stands still shows a stall."""
        return self._ended

    @property
    def done(self) -> int:
        """Jobs run so far; those given back unstarted do not count."""
        return self._done

    @property
    def target(self) -> int:
        """Most jobs to have claimed at once."""
        if self._mean_s is None or self._mean_s > SLOW_S:
            return self.threads
        ahead = self.threads * _INTERVALS_AHEAD * self._flush_s / max(self._mean_s, 1e-5)
        return min(max(MAX_WINDOW, self.threads), self.threads + int(ahead))

    @property
    def prefetch(self) -> int:
        """Messages to hold: twice the target as a power of two for short jobs, the free slots for long ones."""
        if self.slow:
            return max(1, self.threads - self._claimed)
        return min(max(MAX_WINDOW, self.target), 1 << (2 * self.target - 1).bit_length())

    # -- grants --------------------------------------------------------------------------------------------------
    def grant(self, queue: str, *, hungry: bool) -> int:
        """How many jobs ``queue`` may claim now.

        Queues that are hungry (known to have work) share by stride scheduling: who has had least for its weight
        goes first.
        """
        with self.changed:
            if hungry:
                self._hungry.add(queue)
            elif queue in self._hungry:
                self._hungry.discard(queue)
                self.changed.notify_all()  # those who waited for its turn
            free = self._room()
            if free <= 0 or not self._has_turn(queue):
                return 0
            rivals = self._hungry - {queue}
            if not rivals:
                return free
            share = self._weights[queue] / (self._weights[queue] + sum(self._weights[rival] for rival in rivals))
            return max(1, int(free * share))

    def claimed_by(self, queue: str, count: int) -> None:
        """``queue`` has claimed ``count`` jobs."""
        with self.changed:
            self._claimed += count
            # Who comes back after a pause starts level with the others, not with a credit of idle time.
            floor = min((self._passes[rival] for rival in self._hungry), default=0.0)
            self._passes[queue] = max(self._passes[queue], floor) + count / self._weights[queue]
            if len(self._passes) > 1:
                self.changed.notify_all()

    def started(self) -> None:
        """A thread has taken up a job."""
        with self.changed:
            self._running += 1

    def finished(self, run_s: float, *, started: bool = True) -> None:
        """A job has ended, or (``started`` False) was given back unstarted."""
        with self.changed:
            self._claimed -= 1
            self._ended += 1
            if started:
                self._running -= 1
                self._done += 1
                mean = self._mean_s
                if mean is None:
                    self._mean_s = run_s
                else:
                    self._mean_s = mean + (run_s - mean) * (_RISING if run_s > mean else _FALLING)
            # Waking a thread costs more than a short job: only where it finds room, or waits for just any change.
            if self._watchers or self._room() > 0:
                self.changed.notify_all()

    def forget_speed(self) -> None:
        """Jobs have become long: claim one a slot until short ones are seen again."""
        with self.changed:
            self._mean_s = None

    def wait_for_room(self, queue: str, timeout_s: float) -> None:
        """Wait until ``queue`` may claim something, or the time is over."""
        with self.changed:
            self.changed.wait_for(lambda: self._room() > 0 and self._has_turn(queue), timeout=timeout_s)

    def _has_turn(self, queue: str) -> bool:
        """Whether no hungry rival has had less for its weight."""
        passes = self._passes
        return all(passes[rival] >= passes[queue] for rival in self._hungry if rival != queue)

    def _room(self) -> int:
        """How much may be claimed; while the threads have enough, nothing until a claim is worth its round trip."""
        free = self.target - self._claimed
        if free < self.target // 4 and self.unstarted > 2 * self.threads:
            return 0
        return free

    def wait_for_change(self, timeout_s: float) -> None:
        """Wait until some job ends, or the time is over."""
        with self.changed:
            self._watchers += 1
            self.changed.wait(timeout_s)
            self._watchers -= 1

    def idle(self) -> bool:
        """Whether nothing is claimed."""
        return self._claimed == 0
