"""Connections that belong to the caller: whose they are, and how to run the store's SQL on them.

Nothing here ends, begins or aborts the caller's transaction. A connection is trusted only if it sees this very store:
the same ``storeId`` in the same database (a restored copy has the same id).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from playbill.errors import ForeignSessionError
from playbill.store.engine import Database

#: Asked of the catalogue first: a failing query would abort the caller's transaction.
_HAS_META_POSTGRES: Final = sa.text(
    "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'playbill' AND c.relname = 'store_meta'"
    " AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"
)
_IDENTITY_POSTGRES: Final = sa.text(
    "SELECT m.store_id, d.oid::bigint FROM playbill.store_meta m, pg_catalog.pg_database d"
    " WHERE d.datname = current_database()".replace("::", "\\:\\:")
)
_HAS_META_SQLITE: Final = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'playbill_store_meta'")
_IDENTITY_SQLITE: Final = sa.text(
    "SELECT m.store_id, (SELECT file FROM pragma_database_list WHERE name = 'main') FROM playbill_store_meta m"
)

Identity = tuple[str, str]


class Executor(Protocol):
    """Runs SQL text on some connection, in whatever transaction that is in."""

    def rows(self, statement: sa.TextClause, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run one statement and fetch its rows."""

    def many(self, statement: sa.TextClause, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each set of values."""


class SqlAlchemyExecutor:
    """On a SQLAlchemy connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def rows(self, statement: sa.TextClause, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run one statement and fetch its rows."""
        result = self.connection.execute(statement, dict(values))
        return result.all() if result.returns_rows else ()

    def many(self, statement: sa.TextClause, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each set of values."""
        if values:
            self.connection.execute(statement, [dict(each) for each in values])


class PsycopgExecutor:
    """On a raw psycopg connection: SQLAlchemy only writes the placeholders."""

    def __init__(self, connection: Any, *, prepare: bool | None = None) -> None:
        self.connection = connection
        self._prepare = prepare

    def rows(self, statement: sa.TextClause, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run one statement and fetch its rows."""
        from psycopg.rows import tuple_row

        with self.connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(_psycopg_text(statement), dict(values), prepare=self._prepare)
            found: Sequence[Sequence[Any]] = cursor.fetchall() if cursor.description else ()
            return found

    def many(self, statement: sa.TextClause, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each set of values."""
        for each in values:
            self.rows(statement, each)


@lru_cache(maxsize=64)
def _psycopg_text(statement: sa.TextClause) -> str:
    """The statement with psycopg's placeholders."""
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    return str(statement.compile(dialect=PGDialect_psycopg()))  # type: ignore[no-untyped-call]


class CallerConnections:
    """Accepts connections that belong to the store's database, and refuses all others."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own: Identity | None = None
        self._trusted: weakref.WeakSet[Any] = weakref.WeakSet()

    def executor(self, given: Any) -> Executor:
        """The caller's connection, ready to run the store's SQL.

        Raises:
            ForeignSessionError: It belongs to another database, or is of an unknown kind.
        """
        connection = _unwrap(given)
        if isinstance(connection, Connection):
            self._check(SqlAlchemyExecutor(connection), connection.dialect.name, connection.engine)
            return SqlAlchemyExecutor(connection)
        self._check(PsycopgExecutor(connection), "postgresql", connection)
        return PsycopgExecutor(connection)

    def _check(self, executor: Executor, dialect: str, trusted_by: Any) -> None:
        """One engine always leads to one database, so the answer is kept for it."""
        if dialect != self._database.dialect:
            raise ForeignSessionError(
                f"the session is of a {dialect} database, but the store is {self._database.where}"
            )
        if trusted_by in self._trusted:
            return
        if self._own is None:
            with self._database.read() as own:
                self._own = _identity(SqlAlchemyExecutor(own), dialect)
        if self._own is None or _identity(executor, dialect) != self._own:
            raise ForeignSessionError(
                f"the session belongs to another database than the store {self._database.where}:"
                " nothing can be atomic with it; leave session= out, or use the store's database"
            )
        self._trusted.add(trusted_by)


def _identity(executor: Executor, dialect: str) -> Identity | None:
    if dialect == "postgresql":
        if not executor.rows(_HAS_META_POSTGRES, {}):
            return None
        found = executor.rows(_IDENTITY_POSTGRES, {})
        return (str(found[0][0]), str(found[0][1])) if found else None
    if not executor.rows(_HAS_META_SQLITE, {}):
        return None
    found = executor.rows(_IDENTITY_SQLITE, {})
    return (str(found[0][0]), str(Path(found[0][1] or "").resolve())) if found else None


def _unwrap(given: Any) -> Any:
    """A SQLAlchemy Connection or a psycopg Connection out of what callers hold."""
    given = getattr(given, "sync_session", given)
    given = getattr(given, "sync_connection", given)
    if hasattr(given, "registry") and callable(given) and not isinstance(given, Session):
        given = given()  # a scoped_session
    if isinstance(given, Session):
        return given.connection()
    if isinstance(given, Connection):
        return given
    kinds = {f"{base.__module__}.{base.__qualname__}" for base in type(given).__mro__}
    if "psycopg.Connection" in kinds or "psycopg.connection.Connection" in kinds:
        return given
    raise ForeignSessionError(
        f"{type(given).__module__}.{type(given).__qualname__} is no session the store can join;"
        " give a SQLAlchemy Session or Connection, or a psycopg Connection"
    )
