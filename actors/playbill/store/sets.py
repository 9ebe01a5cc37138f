"""Small pieces of SQL that differ by dialect: membership in a list, rows locked in the one order, upserts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.elements import ColumnElement

from playbill.store.engine import Database

_ARRAY_CAST: Final = re.compile(r"CAST\(:(\w+) AS (\w+\[\])\)")


def among(database: Database, column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """``column`` is one of ``values``: one parameter, however many they are."""
    if database.on_postgres:
        return column == sa.any_(sa.cast(sa.literal(list(values), ARRAY(sa.Text)), ARRAY(sa.Text)))
    listed = sa.func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def with_array_literals(sql: str) -> sa.TextClause:
    """SQL whose array parameters are literals (see below) on every driver.

    asyncpg gives a parameter the type of its first cast and then wants a list, so each is cast to text before.
    """
    return sa.text(_ARRAY_CAST.sub(r"CAST(CAST(:\1 AS text) AS \2)", sql))


def text_array(values: Iterable[str | None]) -> str:
    """A PostgreSQL array literal of texts, for ``CAST(:name AS text[])``.

    Several times faster than the driver's own lists, which are escaped by a regular expression for each element.
    """
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def number_array(values: Iterable[float | None]) -> str:
    """A PostgreSQL array literal of numbers. Not by ``repr``: pika's own integers write themselves as ``1L`` there."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def bytes_array(values: Iterable[bytes]) -> str:
    """A PostgreSQL array literal of bytea in hexadecimal."""
    return "{" + ",".join([f'"\\\\x{value.hex()}"' for value in values]) + "}"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def locked_rows(statement: sa.Select[Any], table: sa.Table, *, skip_locked: bool = False) -> sa.Select[Any]:
    """The rows of ``table``, locked in the order of their ids: the one order that keeps bulk writes from deadlocks.

    SQLite has one writer and ignores the lock.
    """
    return statement.order_by(table.c.id).with_for_update(of=table, skip_locked=skip_locked)
