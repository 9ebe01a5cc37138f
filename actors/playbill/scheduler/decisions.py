"""Pure rules of the scheduler: how soon a task runs again, how to back off, and when a message counts as lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Longest pause after failures of the store: its return is noticed within so long, s.
LONGEST_BACKOFF_S: Final = 2.0
FIRST_BACKOFF_S: Final = 0.1

#: A task that costs the store much may use no more than 1/20 of its time.
STATISTICS_SHARE: Final = 20.0

#: Ticks for which messages must be missing: more than all workers could hold, and fewer than that.
TICKS_BEYOND_WORKERS: Final = 2
TICKS_WITHIN_WORKERS: Final = 6


def backoff_s(failures: int, chance: float) -> float:
    """Pause after the ``failures``-th failure in a row, s: doubled each time, half of it by chance.

    Args:
        failures: Failures in a row, from 1.
        chance: Uniform in [0, 1).
    """
    ceiling = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16))
    return ceiling * (0.5 + chance / 2.0)


def next_statistics_s(took_s: float, *, least_s: float) -> float:
    """Pause before the figures are read again, s: at least twenty times what reading them took."""
    return max(least_s, took_s * STATISTICS_SHARE)


def next_run_s(done: int, *, limit: int, busy_s: float, idle_s: float) -> float:
    """Pause before a task runs again, s: none after a full batch, short while there is work."""
    if done >= limit:
        return 0.0
    return busy_s if done else idle_s


@dataclass(frozen=True, slots=True)
class Excess:
    """Jobs of one queue without a visible message, over some ticks in a row.

    Attributes:
        least: The fewest that were missing at any of these ticks.
        ticks: How many ticks in a row some were missing.
    """

    least: int
    ticks: int


@dataclass(frozen=True, slots=True)
class MissingVerdict:
    """What to remember for the next tick, and how many messages to publish again now."""

    excess: Excess | None
    republish: int


def judge_missing(previous: Excess | None, *, awaiting: int, ready: int, could_hold: int) -> MissingVerdict:
    """Decide whether messages of a queue were lost.

    A job that waits with a confirmed message should be seen as ready in the broker, or be prefetched by a worker, which
    the depth does not tell. More than workers could hold is judged after two ticks, fewer only after six: a message
    published again needlessly is harmless (the epoch makes one of the two stale) but costs a claim. Only what was
    missing at every one of those ticks is published again.

    Args:
        previous: What the last tick left, if it was taken for this queue.
        awaiting: Jobs that should have a message in the broker.
        ready: Messages that the broker has ready.
        could_hold: Messages that the queue's workers could hold unclaimed.
    """
    missing = awaiting - ready
    if missing <= 0:
        return MissingVerdict(None, 0)
    now = Excess(missing, 1) if previous is None else Excess(min(missing, previous.least), previous.ticks + 1)
    patience = TICKS_BEYOND_WORKERS if now.least > could_hold else TICKS_WITHIN_WORKERS
    if now.ticks < patience:
        return MissingVerdict(now, 0)
    return MissingVerdict(None, now.least)


def may_hand_over(*, healthy: bool, owed_s: float | None, patience_s: float) -> bool:
    """Whether to take more rows for the publisher now.

    Not while the broker is away or blocked: the rows would be pushed back for nothing. Not before it has confirmed what
    it got last, unless that takes longer than ``patience_s``: then the relay is to repeat it anyway.

    Args:
        healthy: The publisher's own word.
        owed_s: Since when it owes confirms, s; None where it owes none.
        patience_s: Age at which the relay publishes again, s.
    """
    return healthy and (owed_s is None or owed_s >= patience_s)
