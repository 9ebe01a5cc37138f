"""Where foreign errors become Playbill's: one translation for SQLAlchemy, psycopg and sqlite3.

Texts carry the database's own first line and never the statement's parameters (they hold the jobs' arguments) or the
URL's password.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy.exc as sa_exc

from playbill.errors import StoreError, StoreFullError, StoreNotMigratedError, StoreUnavailableError
from playbill.observe.metrics import metrics

NOT_MIGRATED: Final = "the store has no tables yet: run `playbill migrate`"

_UNDEFINED: Final = frozenset({"42P01", "3F000"})  # undefined_table, invalid_schema_name
_DISK_FULL: Final = "53100"
#: Not connection errors to psycopg, yet the same call may succeed later: read_only_sql_transaction (a standby after a
#: failover), idle_in_transaction_session_timeout, serialization_failure.
_LATER: Final = frozenset({"25006", "25P03", "40001"})
#: An I/O error may pass (a quota, a disk that comes back); a finished job must not fail because of it.
_SQLITE_LATER: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}
)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn errors of the database into the library's.

    Args:
        where: The store, as shown to people: a URL without its password.
    """
    try:
        with _translated(where):
            yield
    except StoreError:
        metrics().store_errors.inc()
        raise


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except sa_exc.TimeoutError as error:
        raise StoreUnavailableError(f"no free connection to {where}: {first_line(error)}") from error
    except sa_exc.DBAPIError as error:
        raise _translate(error.orig, where) from error
    except sqlite3.Error as error:
        raise _translate(error, where) from error
    except (OverflowError, UnicodeError) as error:  # of the driver: a value that the database has no place for
        raise StoreError(f"the store {where} cannot hold a value: {first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] != "psycopg":
            raise
        raise _translate(error, where) from error


def is_duplicate(error: StoreError) -> bool:
    """Whether a translated error says that a unique constraint was violated."""
    cause = error.__cause__
    original = cause.orig if isinstance(cause, sa_exc.DBAPIError) else cause
    code = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorcode", None)
    return code in ("23505", sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)


def first_line(error: BaseException | None) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _translate(error: BaseException | None, where: str) -> StoreError:
    text = first_line(error)
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error, text, where)
    return _translate_postgres(error, text, where)


def _translate_sqlite(error: sqlite3.Error, text: str, where: str) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(f"the disk of the store {where} is full, nothing was written: make room ({text})")
    if code in _SQLITE_LATER:
        return StoreUnavailableError(f"the store {where} cannot be used now: {text}")
    if "no such table: playbill_" in text:
        return StoreNotMigratedError(NOT_MIGRATED)
    return StoreError(f"the store {where} failed: {text}")


def _translate_postgres(error: Any, text: str, where: str) -> StoreError:
    state = getattr(error, "sqlstate", None)
    names = {base.__name__ for base in type(error).__mro__}
    if state == _DISK_FULL:
        return StoreFullError(f"the disk of the store {where} is full, nothing was written: make room ({text})")
    if state in _UNDEFINED:
        return StoreNotMigratedError(NOT_MIGRATED)
    if state in _LATER or names & {"OperationalError", "InterfaceError"}:
        return StoreUnavailableError(f"the store {where} cannot be used now: {text}")
    return StoreError(f"the store {where} failed: {text}")
