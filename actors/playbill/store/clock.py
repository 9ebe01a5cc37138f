"""The database's clock in SQL: no process's own clock decides when a job is due or a lease ends."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from playbill.store.tables import UtcTime

#: SQLite's clock has milliseconds; ``unixepoch('subsec')`` would need SQLite 3.42.
SQLITE_NOW: Final = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"
#: In a sub-select the volatile clock is read once, so an index condition may use it.
POSTGRES_NOW: Final = "(SELECT clock_timestamp())"


class now(GenericFunction[datetime]):  # noqa: N801 - used as a function
    """The moment at which the statement runs."""

    type = UtcTime()
    name = "playbill_now"
    inherit_cache = True


class after(GenericFunction[datetime]):  # noqa: N801 - used as a function
    """``after(seconds)``: so long from now; negative seconds are in the past."""

    type = UtcTime()
    name = "playbill_after"
    inherit_cache = True

    def __init__(self, seconds: Any) -> None:
        super().__init__(sa.cast(seconds, sa.Double))


@compiles(now, "postgresql")
def _now_on_postgresql(_element: now, _compiler: Any, **_: Any) -> str:
    return POSTGRES_NOW


@compiles(now, "sqlite")
def _now_on_sqlite(_element: now, _compiler: Any, **_: Any) -> str:
    return SQLITE_NOW


@compiles(after, "postgresql")
def _after_on_postgresql(element: after, compiler: Any, **kw: Any) -> str:
    return f"({POSTGRES_NOW} + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(after, "sqlite")
def _after_on_sqlite(element: after, compiler: Any, **kw: Any) -> str:
    return f"({SQLITE_NOW} + CAST({compiler.process(element.clauses, **kw)} * 1000.0 AS INTEGER))"
