"""A priority from what a business knows of a job."""

from __future__ import annotations

from playbill.errors import InvalidInputError

BASE = 5
_URGENCY = {"critical": 5, "high": 3, "medium": 0, "low": -2}
_CUSTOMER_TIER = {"vip": 3, "premium": 2, "standard": 0}
#: Value beyond which so much is added, the largest first.
_VALUE = ((10_000, 3), (5_000, 2), (1_000, 1))


def calculate_priority(urgency: str | None = None, customer_tier: str | None = None, value: float | None = None) -> int:
    """A priority for ``enqueue``; each argument that is given moves it.

    Args:
        urgency: ``critical`` +5, ``high`` +3, ``medium`` 0, ``low`` -2.
        customer_tier: ``vip`` +3, ``premium`` +2, ``standard`` 0.
        value: Over 10,000 +3, over 5,000 +2, over 1,000 +1.

    Returns:
        5 and what was added, within 1 and 10; 10 goes first.

    Raises:
        InvalidInputError: A word that is not in these lists.
    """
    score = BASE + _points("urgency", urgency, _URGENCY) + _points("customer_tier", customer_tier, _CUSTOMER_TIER)
    if value is not None:
        score += next((points for beyond, points in _VALUE if value > beyond), 0)
    return min(10, max(1, score))


def _points(field: str, word: str | None, table: dict[str, int]) -> int:
    if word is None:
        return 0
    if word not in table:
        raise InvalidInputError(field, f"{word!r} is not one of {', '.join(table)}")
    return table[word]
