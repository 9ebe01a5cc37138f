"""Durations as people write them: ``250ms``, ``90s``, ``5m``, ``1h30m``, ``7d``.

Whole numbers with a unit, largest unit first. No bare numbers: a number without a unit is read as seconds by one
person and as milliseconds by the next.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from playbill.errors import InvalidInputError

#: Longest duration, seconds: ten years keep every date that is computed from it inside the range of databases.
MAX_DURATION_S = 3650 * 86400.0

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
PATTERN = r"^(?=\d)(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$"
_DURATION = re.compile(PATTERN, re.ASCII)
_PART = re.compile(r"(\d+)(ms|[dhms])", re.ASCII)
_REMEDY = "write whole numbers with units d, h, m, s, ms, largest first, such as 90s, 5m, 1h30m"


def parse_duration(text: str, *, field: str = "duration") -> float:
    """Read a duration.

    Args:
        text: For example ``90s``, ``5m``, ``1h30m``, ``250ms``, ``7d``.
        field: Name of the value in the error.

    Returns:
        Seconds, 0 or more, exact to the millisecond.

    Raises:
        InvalidInputError: It is no duration, or longer than ten years.
    """
    try:
        return _seconds(text)
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None


def format_duration(seconds: float) -> str:
    """Write a duration so that :func:`parse_duration` reads it back.

    Args:
        seconds: 0 or more; rounded to the millisecond.

    Returns:
        For example ``1h30m``; ``0s`` for nothing.

    Raises:
        InvalidInputError: It is negative or no finite number.
    """
    if not 0 <= seconds < float("inf"):
        raise InvalidInputError("duration", f"{seconds!r} is not a number of seconds from 0 up")
    left_ms = round(seconds * 1000)
    parts = []
    for unit, unit_ms in _UNITS_MS.items():
        count, left_ms = divmod(left_ms, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _seconds(text: Any) -> float:
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise ValueError(f"{text!r} has no unit; write {text!r}s if you mean seconds")  # noqa: TRY004 - for pydantic too
    if not isinstance(text, str) or not _DURATION.fullmatch(text) or len(text) > 64:
        raise ValueError(f"{text!r} is not a duration; {_REMEDY}")
    total_ms = sum(int(count) * _UNITS_MS[unit] for count, unit in _PART.findall(text))
    if total_ms > MAX_DURATION_S * 1000:
        raise ValueError(f"{text!r} is longer than 3650d, the most that is allowed")
    return total_ms / 1000


def _validate(value: Any) -> float:
    try:
        return _seconds(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{problem}", {"problem": str(error)}) from None


def _validate_positive(value: Any) -> float:
    seconds = _validate(value)
    if seconds == 0:
        raise PydanticCustomError("duration", "{problem}", {"problem": f"{value!r} must be more than 0s"})
    return seconds


_WRITTEN = (
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": PATTERN}),
)

#: A pydantic field type: text in, seconds in Python, text out.
Duration = Annotated[float, BeforeValidator(_validate), *_WRITTEN]
#: The same, more than nothing.
PositiveDuration = Annotated[float, BeforeValidator(_validate_positive), *_WRITTEN]
