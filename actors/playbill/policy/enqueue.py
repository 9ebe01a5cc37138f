"""What an enqueue may ask for; everything is checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from playbill.errors import InvalidInputError
from playbill.spec.duration import MAX_DURATION_S, parse_duration

MAX_TAGS = 20
MAX_TAG_CHARS = 100
MAX_TENANT_CHARS = 200
#: How far in the past ``run_at`` may lie: clocks differ, and time passes between computing it and the call.
PAST_TOLERANCE = timedelta(seconds=60)


def check_priority(priority: Any) -> int:
    """Check a priority.

    Args:
        priority: 1 to 10; 10 goes first.

    Raises:
        InvalidInputError: It is no whole number from 1 to 10.
    """
    if isinstance(priority, bool) or not isinstance(priority, int) or not 1 <= priority <= 10:
        raise InvalidInputError(
            "priority",
            f"{priority!r} is not a whole number from 1 to 10; 10 goes first "
            "(a Dramatiq actor's own priority, where the lower goes first, is another thing)",
        )
    return priority


def check_tags(tags: Any) -> tuple[str, ...]:
    """Check tags.

    Args:
        tags: Up to 20 texts of 1 to 100 printable characters.

    Returns:
        The tags in the order given, each once.

    Raises:
        InvalidInputError: There are too many, or one is no such text.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidInputError("tags", f"{tags!r} is not a list of texts; write [{tags!r}]")
    unique = tuple(dict.fromkeys(_text(f"tags[{index}]", tag, MAX_TAG_CHARS) for index, tag in enumerate(tags)))
    if len(unique) > MAX_TAGS:
        raise InvalidInputError("tags", f"there are {len(unique)}; give {MAX_TAGS} or fewer")
    if "" in unique:
        raise InvalidInputError("tags", "one is empty; leave it out")
    return unique


def check_tenant(tenant: Any) -> str:
    """Check a tenant's name.

    Args:
        tenant: Up to 200 printable characters; empty: no tenant.

    Raises:
        InvalidInputError: It is no such text.
    """
    return _text("tenant", tenant, MAX_TENANT_CHARS)


def check_delay(delay: Any) -> float:
    """Check a delay.

    Args:
        delay: Seconds (a number), a timedelta, or a text such as ``10m``; 0 up to ten years.

    Returns:
        Seconds.

    Raises:
        InvalidInputError: It is negative, too long or no delay.
    """
    if isinstance(delay, str):
        return parse_duration(delay, field="delay")
    if isinstance(delay, timedelta):
        return _in_range(delay, delay.total_seconds())
    if isinstance(delay, (int, float)) and not isinstance(delay, bool):
        return _in_range(delay, _number(delay))
    raise InvalidInputError("delay", f"{delay!r} is not seconds, a timedelta or a text such as '10m'")


def check_delay_ms(delay: Any) -> float:
    """Check a delay as Dramatiq's ``send_with_options`` takes it.

    Args:
        delay: Milliseconds (a number) or a timedelta; 0 up to ten years.

    Returns:
        Seconds.

    Raises:
        InvalidInputError: It is negative, too long or no delay.
    """
    if isinstance(delay, timedelta):
        return check_delay(delay)
    if isinstance(delay, (int, float)) and not isinstance(delay, bool):
        return _in_range(delay, _number(delay) / 1000)
    raise InvalidInputError(
        "delay", f"{delay!r} is not milliseconds or a timedelta; playbill.enqueue(..., delay='10m') takes texts"
    )


def _in_range(delay: Any, seconds: float) -> float:
    if seconds < 0:
        raise InvalidInputError("delay", f"{delay!r} is in the past; give 0 or more, or leave it out")
    if seconds > MAX_DURATION_S:
        raise InvalidInputError("delay", f"{delay!r} is longer than 3650d, the most that is allowed")
    return seconds


def check_run_at(run_at: Any, *, now: datetime) -> datetime:
    """Check the time at which a job becomes due.

    Args:
        run_at: An aware datetime, at most 60 s in the past and ten years ahead.
        now: The time now, aware.

    Returns:
        The same time in UTC.

    Raises:
        InvalidInputError: It is naive, in the past or too far ahead.
    """
    if not isinstance(run_at, datetime):
        raise InvalidInputError("run_at", f"{run_at!r} is not a datetime; for a time from now on use delay")
    if run_at.utcoffset() is None:
        raise InvalidInputError("run_at", f"{run_at.isoformat()} has no time zone; add one, such as datetime.UTC")
    ahead = run_at - now
    if ahead < -PAST_TOLERANCE:
        raise InvalidInputError("run_at", f"{run_at.isoformat()} is in the past; leave it out to run at once")
    if ahead > timedelta(seconds=MAX_DURATION_S):
        raise InvalidInputError("run_at", f"{run_at.isoformat()} is more than 3650 days ahead; choose a nearer time")
    return run_at.astimezone(UTC)


def _number(delay: float) -> float:
    try:
        number = float(delay)
    except OverflowError:
        number = math.inf if delay > 0 else -math.inf
    if math.isnan(number):
        raise InvalidInputError("delay", "nan is not a number; give 0 or more")
    return number


def _text(field: str, value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(field, f"{value!r} is not a text; convert it with str()")
    if len(value) > most:
        raise InvalidInputError(field, f"has {len(value)} characters; use {most} or fewer")
    if not value.isprintable():
        raise InvalidInputError(field, f"{value!r} has control characters; remove them")
    return value
