"""The table of priorities."""

from __future__ import annotations

import pytest

from playbill import calculate_priority
from playbill.errors import InvalidInputError


@pytest.mark.parametrize(
    ("urgency", "tier", "value", "priority"),
    [
        (None, None, None, 5),
        ("critical", None, None, 10),
        ("high", None, None, 8),
        ("medium", None, None, 5),
        ("low", None, None, 3),
        (None, "vip", None, 8),
        (None, "premium", None, 7),
        (None, "standard", None, 5),
        (None, None, 10_001, 8),
        (None, None, 10_000, 7),
        (None, None, 5_001, 7),
        (None, None, 5_000, 6),
        (None, None, 1_001, 6),
        (None, None, 1_000, 5),
        (None, None, 0, 5),
        ("high", "vip", 15_000, 10),
        ("low", "standard", 1_500, 4),
    ],
)
def test_each_argument_moves_the_priority(urgency, tier, value, priority):
    assert calculate_priority(urgency, tier, value) == priority


@pytest.mark.parametrize(("field", "arguments"), [("urgency", ("urgent",)), ("customer_tier", (None, "gold"))])
def test_unknown_words_are_refused_by_name(field, arguments):
    with pytest.raises(InvalidInputError, match="is not one of") as refused:
        calculate_priority(*arguments)
    assert refused.value.field == field
