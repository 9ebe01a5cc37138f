"""Connections of one process to the store: the engine, its pool, its transactions and what happens at a fork.

Safe behind PgBouncer in transaction mode: no prepared statements, no session state, no LISTEN. SQLite runs in WAL mode
with full synchronisation; writers of one process queue up for a lock here, since SQLite's own queue is a sleep.
"""

from __future__ import annotations

import os
import select
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, RootTransaction, make_url
from sqlalchemy.pool import Pool

from playbill.errors import ConfigurationError
from playbill.store.failures import translated
from playbill.store.tables import Tables, build

POOL_SIZE: Final = 2
CONNECT_TIMEOUT_S: Final = 5
BUSY_TIMEOUT_MS: Final = 10_000
_WAL_PAUSE_S: Final = 0.01
#: No statement of the store takes so long; beyond it the database counts as hung.
ANSWER_TIMEOUT_S: Final = 30.0
#: A process that freezes inside a transaction loses it (and its locks) after this time.
IDLE_TRANSACTION_MS: Final = 15_000
LOCK_TIMEOUT_MS: Final = 10_000

_EXAMPLES: Final = "sqlite:///playbill.db or postgresql://user:password@host/database"
_LIMITS: Final = sa.text(
    f"SELECT set_config('idle_in_transaction_session_timeout', '{IDLE_TRANSACTION_MS}', true),"
    f" set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true)"
)
_KEEPALIVES: Final = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "playbill",
}


class Database:
    """The store's database: transactions of three kinds, with errors translated.

    Attributes:
        tables: The tables under the dialect's names.
        where: The URL without its password, for messages.
    """

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self.where = self.url.render_as_string(hide_password=True)
        self.on_postgres = self.url.get_backend_name() == "postgresql"
        self.tables: Tables = build("postgresql" if self.on_postgres else "sqlite")
        self.engine = _postgres_engine(self.url) if self.on_postgres else _sqlite_engine(self.url)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._writer = threading.Lock()
        _LIVE.add(self)

    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return "postgresql" if self.on_postgres else "sqlite"

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes. Committed at the end of the block, rolled back by an exception."""
        with translated(self.where):
            if self.on_postgres:
                with self.engine.begin() as connection:
                    connection.execute(_LIMITS)
                    yield connection
            else:
                with self._writer, self.engine.connect() as connection, _immediate(connection):
                    yield connection

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """For one writing statement that needs no transaction around it: one round trip on PostgreSQL."""
        if self.on_postgres:
            with translated(self.where), self._autocommit.connect() as connection:
                yield connection
        else:
            with self.write() as connection:
                yield connection

    @contextmanager
    def raw(self) -> Iterator[Any]:
        """A psycopg connection in autocommit, for the one statement of a small enqueue.

        SQLAlchemy's own work on a statement takes as long as PostgreSQL's on inserting a row.
        """
        with translated(self.where):
            pooled = self.engine.pool.connect()
            connection: Any = pooled.driver_connection
            try:
                connection.autocommit = True
                yield connection
                connection.autocommit = False
            except BaseException:
                # Closed, or cut off in mid-answer: nobody else may get it.
                pooled.invalidate()
                raise
            finally:
                pooled.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """For reading: each statement sees what is committed (one snapshot for all on SQLite)."""
        with translated(self.where):
            if self.on_postgres:
                with self._autocommit.connect() as connection:
                    yield connection
            else:
                with self.engine.connect() as connection, connection.begin():
                    yield connection

    def close(self) -> None:
        """Close all connections; new ones are opened at the next use."""
        self.engine.dispose()

    def forget_after_fork(self) -> None:
        """In a forked child: leave the parent's connections untouched and start with none."""
        _INHERITED.append(self.engine.pool)
        self.engine.dispose(close=False)
        self._writer = threading.Lock()


def _immediate(connection: Connection) -> RootTransaction:
    return connection.execution_options(playbill_write=True).begin()


#: The parent's connections, kept from being collected: closing them in a child would disturb the parent.
_INHERITED: list[Pool] = []
_LIVE: weakref.WeakSet[Database] = weakref.WeakSet()


def _in_child() -> None:
    for database in list(_LIVE):
        database.forget_after_fork()


os.register_at_fork(after_in_child=_in_child)


def parse_url(text: str) -> URL:
    """The store's URL with the driver that the store uses.

    Raises:
        ConfigurationError: It is no URL, of another database, or its driver is not installed.
    """
    try:
        url = make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(f"store_url is not a database URL; write {_EXAMPLES}") from None
    backend = url.get_backend_name()
    if backend in ("postgres", "postgresql"):
        return _postgres_url(url)
    if backend != "sqlite":
        raise ConfigurationError(f"store_url: {backend} is not supported; write {_EXAMPLES}")
    if url.get_driver_name() not in ("pysqlite", ""):
        raise ConfigurationError(f"store_url: the driver of {url.drivername} is not supported; write sqlite:///file")
    if not url.database or ":memory:" in url.database or url.database.startswith("file:"):
        raise ConfigurationError(
            "store_url: SQLite needs a file, since several connections share it; write sqlite:///playbill.db"
        )
    return url.set(drivername="sqlite+pysqlite")


def _postgres_url(url: URL) -> URL:
    driver = url.drivername.partition("+")[2]
    if driver not in ("", "psycopg"):
        raise ConfigurationError(f"store_url: the store uses psycopg 3, not {driver}; write postgresql://...")
    try:
        import psycopg  # noqa: F401 - only asked whether it is there
    except ImportError as error:
        raise ConfigurationError(
            f"store_url names PostgreSQL, whose driver is not installed ({error}); install playbill[postgres]"
        ) from None
    return url.set(drivername="postgresql+psycopg")


def _postgres_engine(url: URL) -> Engine:
    from playbill.store.hung import BoundedConnection

    dialect = url.get_dialect()()
    args, given = dialect.create_connect_args(url)
    # Never prepared by default, with or without a pooler: a plan made while the live table was empty scans it from end
    # to end, and is kept when an enqueue of 100,000 has filled it: 40 times slower until the next ANALYZE (measured).
    # Planning each time costs 1 to 4 us a job in batches of 100.
    options = {**_KEEPALIVES, **given, "prepare_threshold": None}

    def connect() -> Any:
        connection = BoundedConnection.connect(*args, **options)
        if not _is_pooled(connection):
            connection.prepare_threshold = sys.maxsize  # by nobody's count: only where a statement asks for it
        return connection

    engine = sa.create_engine(
        url,
        creator=connect,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=ANSWER_TIMEOUT_S,
        use_native_hstore=False,
        hide_parameters=True,
    )
    event.listen(engine, "checkout", _refuse_stale)
    return engine


def _is_pooled(connection: Any) -> bool:
    """Whether a pooler such as PgBouncer stands between: it answers a login with a process id of its own making.

    Behind one, a statement may meet a server connection on which it was never prepared.
    """
    connection.autocommit = True
    backend = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    connection.autocommit = False
    return bool(backend != connection.info.backend_pid)


def _refuse_stale(connection: Any, _record: Any, _proxy: Any) -> None:
    """An idle connection with something to read has been closed by the server: SQLAlchemy then opens another one.

    Costs a system call instead of the round trip of a ping.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    if poll.poll(0):
        raise sa.exc.DisconnectionError("the server closed this idle connection")


def _sqlite_engine(url: URL) -> Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=ANSWER_TIMEOUT_S,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin here, not in the driver
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("playbill_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: Any) -> None:
    """Switch the file to WAL mode. SQLite itself does not wait here, so the first users of a new file may collide."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return
