"""How long the scheduler has had the store within reach: whoever lost sight of it must not judge others by it.

While the store was away no worker could renew its lease, so right after its return all of them look dead. A rescue is
therefore allowed only after a full worker lease of unbroken contact. All times are of the monotonic clock, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Part of a worker's lease that may pass between two answers of the store before contact counts as broken. Workers
#: renew every 2 of 15 s: a gap of half a lease cannot end the lease of a worker that was alive before it.
LONGEST_GAP: Final = 0.5


@dataclass(frozen=True, slots=True)
class Contact:
    """Unbroken contact with the store. ``Contact()`` is none.

    Attributes:
        since: First answer of the unbroken row; None without contact.
        last: Last answer.
    """

    since: float | None = None
    last: float | None = None

    def met(self, now: float, *, lease_s: float) -> Contact:
        """The store has answered."""
        if self.since is None or self.last is None or now - self.last > lease_s * LONGEST_GAP:
            return Contact(since=now, last=now)
        return Contact(since=self.since, last=now)

    def may_rescue(self, now: float, *, lease_s: float) -> bool:
        """Whether every live worker has had a full lease to be heard of.

        Args:
            now: Monotonic time, s.
            lease_s: Lease of a worker, s.
        """
        if self.since is None or self.last is None or now - self.last > lease_s * LONGEST_GAP:
            return False
        return now - self.since >= lease_s


def was_frozen(last_tick: float, now: float, *, lease_s: float) -> bool:
    """Whether the process stood still (SIGSTOP, a suspended machine) for longer than the lease between two ticks."""
    return now - last_tick > lease_s
