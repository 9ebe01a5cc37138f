"""The archive's partitions on PostgreSQL: one for each day and way to end, made ahead of time and dropped whole.

A default partition catches what has no day of its own (nobody made partitions for days); rows there are deleted one by
one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

DAYS_AHEAD: Final = 3
CLASSES: Final = ("completed", "ended")

_LIST = sa.text(
    "SELECT c.relname FROM pg_catalog.pg_inherits i"
    " JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_class p ON p.oid = i.inhparent"
    " JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace"
    " WHERE n.nspname = 'playbill' AND p.relname = :parent AND c.relname <> :rest"
)


def ensure_partitions(connection: Connection) -> None:
    """Make the partitions of today and of the next days."""
    today = connection.execute(sa.text("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")).scalar_one()
    for kind in CLASSES:
        present = partitions(connection, kind)
        for offset in range(DAYS_AHEAD + 1):
            day = today + timedelta(days=offset)
            if day not in present and not _rest_holds(connection, kind, day):
                connection.execute(sa.text(_create(kind, day)))


def partitions(connection: Connection, kind: str) -> dict[date, str]:
    """The day partitions of ``completed`` or ``ended``, by day."""
    parent = f"jobs_archive_{kind}"
    names = connection.execute(_LIST, {"parent": parent, "rest": f"{parent}_rest"}).scalars()
    return {datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date(): name for name in names}


def drop_partition(connection: Connection, name: str) -> int:
    """Drop a partition with all its rows; returns how many they were."""
    rows: int = connection.execute(sa.text(f"SELECT count(*) FROM playbill.{name}")).scalar_one()  # noqa: S608
    connection.execute(sa.text(f"DROP TABLE playbill.{name}"))
    return rows


def _rest_holds(connection: Connection, kind: str, day: date) -> bool:
    """Whether the default partition has rows of that day: then it keeps them, a partition could not be made."""
    query = sa.text(
        f"SELECT EXISTS (SELECT FROM playbill.jobs_archive_{kind}_rest"  # noqa: S608 - constants
        " WHERE finished_at >= :first AND finished_at < :next)"
    )
    found: bool = connection.execute(
        query, {"first": _start(day), "next": _start(day) + timedelta(days=1)}
    ).scalar_one()
    return found


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _create(kind: str, day: date) -> str:
    first, following = _start(day), _start(day) + timedelta(days=1)
    return (
        f"CREATE TABLE playbill.jobs_archive_{kind}_{day:%Y%m%d} PARTITION OF playbill.jobs_archive_{kind}"
        f" FOR VALUES FROM ('{first.isoformat()}') TO ('{following.isoformat()}')"
    )
