"""Foreign errors become Playbill's, and tell neither passwords nor arguments."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from playbill.errors import StoreError, StoreNotMigratedError, StoreUnavailableError
from playbill.store.failures import translated

WHERE = "postgresql://user:***@host/db"


@pytest.mark.parametrize(
    ("error", "becomes", "retryable"),
    [
        (psycopg.OperationalError("connection refused"), StoreUnavailableError, True),
        (psycopg.InterfaceError("the connection is closed"), StoreUnavailableError, True),
        (psycopg.errors.AdminShutdown("terminating connection"), StoreUnavailableError, True),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"), StoreUnavailableError, True),
        (psycopg.errors.IdleInTransactionSessionTimeout("terminating"), StoreUnavailableError, True),
        (psycopg.errors.TooManyConnections("sorry, too many clients already"), StoreUnavailableError, True),
        (psycopg.errors.UndefinedTable("no relation"), StoreNotMigratedError, False),
        (psycopg.errors.InvalidSchemaName("no schema"), StoreNotMigratedError, False),
        (psycopg.errors.InsufficientPrivilege("permission denied"), StoreError, False),
        (psycopg.DataError("NUL bytes"), StoreError, False),
    ],
)
def test_errors_of_psycopg(error: psycopg.Error, becomes: type[StoreError], retryable: bool) -> None:
    for wrapped in (error, sa.exc.DBAPIError("SELECT secret", {"message": b"secret"}, error)):
        with pytest.raises(StoreError) as caught, translated(WHERE):
            raise wrapped
        assert type(caught.value) is becomes
        assert caught.value.retryable is retryable
        assert "secret" not in str(caught.value)


def test_a_full_disk_says_so() -> None:
    with pytest.raises(StoreError, match=r"full.*make room"), translated(WHERE):
        raise psycopg.errors.DiskFull("could not extend file")


def test_errors_of_sqlite(tmp_path: Path) -> None:
    one = sqlite3.connect(tmp_path / "x.db", timeout=0.01, isolation_level=None)
    two = sqlite3.connect(tmp_path / "x.db", timeout=0.01, isolation_level=None)
    one.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked"), translated("sqlite:///x.db"):
        two.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreNotMigratedError, match="playbill migrate"), translated("sqlite:///x.db"):
        one.execute("SELECT * FROM playbill_jobs")
    with pytest.raises(StoreError, match="syntax"), translated("sqlite:///x.db"):
        one.execute("SELEKT")
    one.close()
    two.close()


def test_a_pool_without_a_free_connection_is_unavailable() -> None:
    with pytest.raises(StoreUnavailableError, match="no free connection"), translated(WHERE):
        raise sa.exc.TimeoutError("QueuePool limit")


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), translated(WHERE):
        1 / 0  # noqa: B018
