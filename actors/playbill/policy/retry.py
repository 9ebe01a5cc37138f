"""Whether a failed attempt is followed by another, and after which delay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from playbill.errors import InvalidInputError
from playbill.spec.duration import format_duration

#: ``dramatiq`` is the backoff of Dramatiq's Retries middleware, for actors that set min_backoff or max_backoff.
Strategy = Literal["exponential", "linear", "fixed", "dramatiq"]

DRAMATIQ_MIN_BACKOFF_S = 15.0
DRAMATIQ_MAX_BACKOFF_S = 7 * 86_400.0

#: 2^62 times a millisecond is longer than any delay that is allowed, and no float overflows on the way.
_MAX_EXPONENT = 62


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed attempts are repeated.

    Attributes:
        max_attempts: Attempts in all, 1 or more; None: no limit.
        strategy: How the delay grows.
        initial_s: First delay, seconds, 0 or more.
        max_s: Longest delay, seconds, jitter included.
        jitter: 0 to 1: a delay d becomes d x (1 - jitter) to d x (1 + jitter); ``dramatiq`` has its own.
        retry_on: Only these errors are retried (class names, bare or dotted); empty: all.
        give_up_on: These errors fail the job at once; they win over ``retry_on``.
    """

    max_attempts: int | None = 3
    strategy: Strategy = "exponential"
    initial_s: float = 15.0
    max_s: float = 600.0
    jitter: float = 0.2
    retry_on: tuple[str, ...] = ()
    give_up_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise InvalidInputError("max_attempts", f"{self.max_attempts} is less than 1; use 1 for no retry")
        for name in ("initial_s", "max_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidInputError(name, f"{getattr(self, name)!r} is not a number of seconds from 0 up")
        if not 0 <= self.jitter <= 1:
            raise InvalidInputError("jitter", f"{self.jitter!r} is not between 0 and 1")

    @classmethod
    def from_dramatiq(
        cls,
        *,
        max_retries: int | None,
        min_backoff_ms: float | None = None,
        max_backoff_ms: float | None = None,
        give_up_on: tuple[str, ...] = (),
    ) -> RetryPolicy:
        """The policy that Dramatiq's own options mean.

        Args:
            max_retries: Retries after the first attempt, 0 or more; None: no limit.
            min_backoff_ms: First delay, ms; None: Dramatiq's default of 15 s.
            max_backoff_ms: Longest delay, ms; None: Dramatiq's default of 7 days, which is also the most.
            give_up_on: Names of the classes in ``throws``.

        Source:
            ``dramatiq.common.compute_backoff``: min_backoff x 2^retries x (1 to 2); what is longer than max_backoff
            becomes max_backoff x (0.5 to 1).
        """
        return cls(
            max_attempts=None if max_retries is None else max_retries + 1,
            strategy="dramatiq",
            initial_s=DRAMATIQ_MIN_BACKOFF_S if min_backoff_ms is None else min_backoff_ms / 1000,
            max_s=DRAMATIQ_MAX_BACKOFF_S
            if max_backoff_ms is None
            else min(max_backoff_ms / 1000, DRAMATIQ_MAX_BACKOFF_S),
            jitter=0.0,
            give_up_on=give_up_on,
        )


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The verdict on a failed attempt.

    Attributes:
        retry: Whether there is another attempt.
        delay_s: After how many seconds; 0 where there is none.
        reason: One phrase for people.
        exhausted: There is none because all attempts are used up (``on_retry_exhausted``), not because of the error.
    """

    retry: bool
    delay_s: float
    reason: str
    exhausted: bool = False


def decide_retry(
    policy: RetryPolicy,
    *,
    attempt: int,
    error_types: tuple[str, ...],
    u: float,
    wanted: bool | None = None,
    requested_delay_s: float | None = None,
) -> RetryDecision:
    """Decide what follows a failed attempt.

    Args:
        policy: The policy in effect.
        attempt: Which attempt failed, 1 for the first.
        error_types: What :func:`error_types` says of its exception.
        u: Evenly distributed over [0, 1): the jitter.
        wanted: What the actor's ``retry_when`` says; None: it has none. ``max_attempts`` holds beside it.
        requested_delay_s: The delay of a raised ``dramatiq.Retry``, used as it is.

    Returns:
        The verdict.
    """
    if (name := _first_named(policy.give_up_on, error_types)) is not None:
        return RetryDecision(False, 0.0, f"gives up on {name}")
    if policy.retry_on and _first_named(policy.retry_on, error_types) is None:
        bare = error_types[0] if error_types else "this error"
        return RetryDecision(False, 0.0, f"{bare} is not in retryOn")
    if wanted is False:
        return RetryDecision(False, 0.0, f"retry_when refused after attempt {attempt}", exhausted=True)
    if policy.max_attempts is not None and attempt >= policy.max_attempts:
        return RetryDecision(False, 0.0, f"attempt {attempt} of {policy.max_attempts} failed", exhausted=True)
    delay_s = backoff_s(policy, attempt=attempt, u=u) if requested_delay_s is None else max(0.0, requested_delay_s)
    of = "" if policy.max_attempts is None else f" of {policy.max_attempts}"
    return RetryDecision(True, delay_s, f"attempt {attempt}{of} failed, next in {format_duration(delay_s)}")


def backoff_s(policy: RetryPolicy, *, attempt: int, u: float) -> float:
    """The delay after a failed attempt.

    Args:
        policy: The policy in effect.
        attempt: Which attempt failed, 1 for the first.
        u: Evenly distributed over [0, 1).

    Returns:
        Seconds, 0 to ``policy.max_s``.
    """
    base_s = policy.initial_s * _growth(policy.strategy, attempt)
    if policy.strategy == "dramatiq":
        return _dramatiq_jitter(base_s, policy.max_s, u)
    return min(policy.max_s, base_s * (1 - policy.jitter + 2 * policy.jitter * u))


def error_types(error: BaseException | type[BaseException]) -> tuple[str, ...]:
    """The names by which policies may call an error: of its class and all bases, bare and dotted, nearest first."""
    cls = error if isinstance(error, type) else type(error)
    names: dict[str, None] = {}
    for base in cls.__mro__[:-1]:  # without object
        names[base.__name__] = None
        names[dotted_name(base)] = None
    return tuple(names)


def dotted_name(cls: type) -> str:
    """``module.Class``; ``builtins.ValueError`` for those that need no import."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _growth(strategy: Strategy, attempt: int) -> float:
    if strategy == "fixed":
        return 1.0
    if strategy == "linear":
        return float(min(attempt, 2**_MAX_EXPONENT))
    return 2.0 ** min(attempt - 1, _MAX_EXPONENT)


def _dramatiq_jitter(base_s: float, max_s: float, u: float) -> float:
    """Dramatiq draws twice, here ``u`` serves for both draws: its share above the threshold is spread out again."""
    if base_s * (1 + u) <= max_s:
        return base_s * (1 + u)
    threshold = max(0.0, max_s / base_s - 1)
    again = (u - threshold) / (1 - threshold) if threshold < 1 else u
    return max_s * (0.5 + again / 2)


def _first_named(listed: Iterable[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in listed if name in names), None)
