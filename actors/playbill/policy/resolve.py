"""Which policy holds for a job: message options > JobQueue > actor options > defaults.

Options of messages and actors are Dramatiq's, in milliseconds. A JobQueue's spec is the JSON value in the store, with
only the keys that its author set. 0 is a value; it never means "not set".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from playbill.errors import InvalidInputError
from playbill.policy.retry import (
    DRAMATIQ_MAX_BACKOFF_S,
    DRAMATIQ_MIN_BACKOFF_S,
    RetryPolicy,
    Strategy,
    dotted_name,
)
from playbill.spec.duration import parse_duration

#: A predicate of an actor: (retries so far, exception) -> whether to try again.
RetryWhen = Callable[[int, BaseException], bool]


@dataclass(frozen=True, slots=True)
class PolicyDefaults:
    """What holds where nobody says anything. The limits come from the settings of the same names."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    time_limit_s: float | None = 600.0
    time_limit_grace_s: float = 30.0
    max_age_s: float | None = None
    store_results: bool = True


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """The policy of one job.

    Attributes:
        retry: Attempts and backoff; ``give_up_on`` holds the names of the classes in ``throws``.
        retry_when: The actor's predicate; the worker asks it and hands its answer to ``decide_retry``.
        time_limit_s: Soft limit of an attempt, seconds; None: no limit.
        time_limit_grace_s: From the soft limit to the hard one, seconds.
        max_age_s: A job that has waited longer fails as expired, seconds; None: no limit.
        store_results: Whether the result is stored.
    """

    retry: RetryPolicy
    retry_when: RetryWhen | None
    time_limit_s: float | None
    time_limit_grace_s: float
    max_age_s: float | None
    store_results: bool


def resolve(
    message_options: Mapping[str, Any],
    queue_spec: Mapping[str, Any] | None,
    actor_options: Mapping[str, Any],
    defaults: PolicyDefaults | None = None,
) -> EffectivePolicy:
    """Merge what message, queue, actor and defaults say.

    Args:
        message_options: ``message.options``.
        queue_spec: The JobQueue's spec as stored; None: the queue has none.
        actor_options: ``actor.options``.
        defaults: What holds elsewhere; None: the built-in defaults.

    Returns:
        The policy of this job.

    Raises:
        InvalidInputError: An option has a value that means nothing, for example a text for ``max_retries``.
    """
    defaults = defaults or PolicyDefaults()
    spec = queue_spec or {}
    limit = partial(_limit, message=message_options, spec=spec, actor=actor_options)
    return EffectivePolicy(
        retry=_retry(message_options, _part(spec, "retry"), actor_options, defaults.retry),
        retry_when=actor_options.get("retry_when"),
        time_limit_s=_finite(limit("time_limit", "timeLimit"), defaults.time_limit_s),
        time_limit_grace_s=_duration(spec, "timeLimitGrace", defaults.time_limit_grace_s),
        max_age_s=_finite(limit("max_age", "maxAge"), defaults.max_age_s),
        store_results=_flag("store_results", message_options, actor_options, defaults.store_results),
    )


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of an actor or a message that could never work, before anything rests on them.

    Stricter than :func:`resolve`, which must make sense of what plain Dramatiq producers have sent.

    Args:
        options: ``actor.options``, or ``message.options`` before it is enqueued.

    Raises:
        InvalidInputError: An option has a value that means nothing; its ``field`` is the option.
    """
    retries = options.get("max_retries")
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise InvalidInputError("max_retries", f"{retries!r} is not a whole number from 0 up; None is no limit")
    _own_backoff(options)
    for name in ("time_limit", "max_age"):
        if options.get(name) is not None:
            _ms(name, options[name])
    if options.get("throws") is not None:
        _thrown(options["throws"])


def _retry(
    message: Mapping[str, Any], queue: Mapping[str, Any], actor: Mapping[str, Any], default: RetryPolicy
) -> RetryPolicy:
    return replace(
        _backoff(message, _part(queue, "backoff"), actor, default),
        max_attempts=_max_attempts(message, queue, actor, default.max_attempts),
        retry_on=tuple(queue["retryOn"]) if "retryOn" in queue else default.retry_on,
        give_up_on=_give_up_on(message, queue, actor, default.give_up_on),
    )


def _max_attempts(
    message: Mapping[str, Any], queue: Mapping[str, Any], actor: Mapping[str, Any], default: int | None
) -> int | None:
    if "max_retries" in message:
        return _attempts(message["max_retries"])
    if (stated := queue.get("maxAttempts")) is not None:
        return int(stated)
    if actor.get("retry_when") is not None:
        return None  # as in Dramatiq, the predicate takes the place of the actor's own count
    return _attempts(actor["max_retries"]) if "max_retries" in actor else default


def _attempts(max_retries: Any) -> int | None:
    """Dramatiq counts retries while they are below the number: None or inf is no limit, below 0 is no retry."""
    if max_retries is None or max_retries == math.inf:
        return None
    if isinstance(max_retries, bool) or not isinstance(max_retries, (int, float)) or math.isnan(max_retries):
        raise InvalidInputError("max_retries", f"{max_retries!r} is not a number; give 0 or more, or None")
    return math.ceil(max(0, max_retries)) + 1


def _backoff(
    message: Mapping[str, Any], queue: Mapping[str, Any], actor: Mapping[str, Any], default: RetryPolicy
) -> RetryPolicy:
    """The highest level that says anything decides the strategy; each number is of the highest that states it."""
    levels = [level for level in (_own_backoff(message), _queue_backoff(queue), _own_backoff(actor)) if level]
    if not levels:
        return default
    strategy = cast("Strategy", levels[0]["strategy"])
    own = strategy == "dramatiq"

    def stated(name: str, fallback: float) -> float:
        return next((float(level[name]) for level in levels if name in level), fallback)

    return replace(
        default,
        strategy=strategy,
        initial_s=stated("initial_s", DRAMATIQ_MIN_BACKOFF_S if own else default.initial_s),
        max_s=stated("max_s", DRAMATIQ_MAX_BACKOFF_S if own else default.max_s),
        jitter=0.0 if own else stated("jitter", default.jitter),
    )


def _own_backoff(options: Mapping[str, Any]) -> dict[str, Any]:
    """Backoff by Dramatiq's options."""
    found: dict[str, Any] = {}
    for option, name in (("min_backoff", "initial_s"), ("max_backoff", "max_s")):
        if (value := options.get(option)) is not None:
            found[name] = _ms(option, value)
    if "max_s" in found:
        found["max_s"] = min(found["max_s"], DRAMATIQ_MAX_BACKOFF_S)
    if found.get("initial_s") == math.inf:
        raise InvalidInputError("min_backoff", "inf is not a number of milliseconds")
    return {"strategy": "dramatiq", **found} if found else {}


def _queue_backoff(backoff: Mapping[str, Any]) -> dict[str, Any]:
    """Backoff by a JobQueue."""
    if not backoff:
        return {}
    found: dict[str, Any] = {"strategy": backoff.get("strategy") or "exponential"}
    for key, name in (("initial", "initial_s"), ("max", "max_s")):
        if backoff.get(key) is not None:
            found[name] = parse_duration(backoff[key], field=f"spec.retry.backoff.{key}")
    if backoff.get("jitter") is not None:
        found["jitter"] = backoff["jitter"]
    return found


def _give_up_on(
    message: Mapping[str, Any], queue: Mapping[str, Any], actor: Mapping[str, Any], default: tuple[str, ...]
) -> tuple[str, ...]:
    if message.get("throws") is not None:
        return _thrown(message["throws"])
    if "giveUpOn" in queue:
        return tuple(queue["giveUpOn"])
    return _thrown(actor["throws"]) if actor.get("throws") is not None else default


def _thrown(throws: Any) -> tuple[str, ...]:
    """``throws`` is a class or a tuple of classes; nested tuples are what isinstance takes too."""
    if isinstance(throws, type):
        return (dotted_name(throws),)
    if isinstance(throws, (tuple, list)):
        return tuple(name for each in throws for name in _thrown(each))
    raise InvalidInputError("throws", f"{throws!r} is neither an exception class nor a tuple of them")


def _limit(
    option: str, key: str, *, message: Mapping[str, Any], spec: Mapping[str, Any], actor: Mapping[str, Any]
) -> float | None:
    """A limit in seconds, infinite where that is what is stated; None: nobody states one."""
    if message.get(option) is not None:
        return _ms(option, message[option])
    if spec.get(key) is not None:
        return parse_duration(spec[key], field=f"spec.{key}")
    return _ms(option, actor[option]) if actor.get(option) is not None else None


def _finite(stated: float | None, default: float | None) -> float | None:
    """Infinity is how Dramatiq's options say "no limit"; here that is None."""
    limit_s = default if stated is None else stated
    return None if limit_s == math.inf else limit_s


def _duration(spec: Mapping[str, Any], key: str, default: float) -> float:
    return parse_duration(spec[key], field=f"spec.{key}") if spec.get(key) is not None else default


def _flag(option: str, message: Mapping[str, Any], actor: Mapping[str, Any], default: bool) -> bool:
    for options in (message, actor):
        if options.get(option) is not None:
            return bool(options[option])
    return default


def _ms(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise InvalidInputError(
            option, f"{value!r} is not a number of milliseconds from 0 up; leave it out for the default"
        )
    try:
        return value / 1000
    except OverflowError:
        return math.inf


def _part(spec: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] | None = spec.get(key)
    return part or {}
