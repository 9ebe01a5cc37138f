"""What store and scheduler need of a queue's policy, read from the JobQueue's spec as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playbill.spec.duration import parse_duration


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long ended jobs are kept, seconds. Cancelled ones are kept like failed ones."""

    completed_s: float = 86_400.0
    failed_s: float = 604_800.0


def retention_of(spec: Mapping[str, Any] | None) -> RetentionPolicy:
    """Retention of a queue; the defaults (24 h, 7 d) where its spec says nothing."""
    stated = (spec or {}).get("retention") or {}
    default = RetentionPolicy()
    return RetentionPolicy(
        completed_s=_seconds(stated, "completed", "spec.retention.completed", default.completed_s),
        failed_s=_seconds(stated, "failed", "spec.retention.failed", default.failed_s),
    )


def max_age_of(spec: Mapping[str, Any] | None) -> float | None:
    """A queue's ``maxAge`` in seconds; None: no limit."""
    stated = (spec or {}).get("maxAge")
    return parse_duration(stated, field="spec.maxAge") if stated is not None else None


def _seconds(stated: Mapping[str, Any], key: str, field: str, default: float) -> float:
    value = stated.get(key)
    return parse_duration(value, field=field) if value is not None else default
