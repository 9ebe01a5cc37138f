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
import sqlalchemy.exc as sa_exc
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from playbill.errors import ForeignSessionError, InvalidInputError
from playbill.store.engine import Database
from playbill.store.failures import first_line, translated

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

_AUTOCOMMIT: Final = (
    "it is in autocommit mode, so the job would not be of your transaction; begin one (psycopg: `with"
    " connection.transaction()`), or leave session= out"
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
            InvalidInputError: It is async, closed, in a failed transaction, or in none as it commits by itself.
            StoreUnavailableError: Its database cannot be reached.
        """
        try:
            with translated(self._database.where):
                return self._executor(_unwrap(given))
        except sa_exc.InvalidRequestError as error:  # closed, or its transaction has failed
            raise InvalidInputError("session", f"it cannot be used now: {first_line(error)}") from error

    def _executor(self, connection: Any) -> Executor:
        if isinstance(connection, Connection):
            on_sqlalchemy = SqlAlchemyExecutor(connection)
            self._check(on_sqlalchemy, connection.dialect.name, connection.engine)
            _refuse_autocommit(connection)
            return on_sqlalchemy
        _refuse_unusable(connection)
        on_psycopg = PsycopgExecutor(connection)
        self._check(on_psycopg, "postgresql", connection)
        return on_psycopg

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
    if hasattr(given, "registry") and callable(given) and not isinstance(given, Session):
        given = given()  # a scoped_session
    if hasattr(given, "sync_session") or hasattr(given, "sync_connection"):
        raise InvalidInputError(
            "session",
            f"{_name(given)} is async: `await playbill.aenqueue(...)`, or `await job.acheckpoint(...)` inside of a job",
        )
    if isinstance(given, Session):
        return given.connection()
    if isinstance(given, Connection):
        return given
    kinds = {f"{base.__module__}.{base.__qualname__}" for base in type(given).__mro__}
    if "psycopg.Connection" in kinds or "psycopg.connection.Connection" in kinds:
        return given
    raise ForeignSessionError(
        f"{_name(given)} is no session the store can join;"
        " give a SQLAlchemy Session or Connection, or a psycopg Connection"
    )


def _name(given: Any) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}"


def _refuse_autocommit(connection: Connection) -> None:
    """Refuse a SQLAlchemy connection without a transaction: the job would exist at once, whatever the caller does."""
    raw = connection.connection
    if raw.dbapi_connection is None or not connection.dialect.detect_autocommit_setting(raw.dbapi_connection):
        return
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text("SELECT 1"))  # an engine that begins by an event of its own has begun by now
        if getattr(raw.driver_connection, "in_transaction", False):
            return
    raise InvalidInputError("session", _AUTOCOMMIT)


def _refuse_unusable(connection: Any) -> None:
    """The same for a psycopg connection; one that is closed or whose transaction has failed is refused too."""
    from psycopg.pq import TransactionStatus

    if connection.closed:
        raise InvalidInputError("session", "the connection is closed; give an open one")
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise InvalidInputError("session", "its transaction has failed; roll it back first")
    if connection.autocommit and status == TransactionStatus.IDLE:
        raise InvalidInputError("session", _AUTOCOMMIT)
