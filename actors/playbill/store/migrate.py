"""Brings a store's tables up to date. Migrations only expand, so older code of the previous minor keeps working."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from playbill.errors import ConfigurationError, StoreTooNewError
from playbill.settings import Settings
from playbill.store.engine import Database
from playbill.store.partitions import ensure_partitions
from playbill.store.sql import CODE_LEVEL
from playbill.store.tables import PREFIX, SCHEMA

#: Any fixed number: two migrations at once wait for each other on it, to the end of the transaction.
_MIGRATION_LOCK: Final = 7_329_111_905


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did.

    Attributes:
        applied: The revisions applied now, in order; empty where there was nothing to do.
        newer: The store's revision, where newer code has made it and this code may use it all the same.
    """

    applied: tuple[str, ...] = ()
    newer: str | None = None


def migrate(settings: Settings) -> Migrated:
    """Create or upgrade the tables; safe when several run at once.

    Returns:
        What was done.

    Raises:
        ConfigurationError: The URL is wrong, or its file's directory does not exist.
        StoreTooNewError: The store needs newer code.
        StoreUnavailableError: The database cannot be reached.
    """
    database = Database(settings.store_url.get_secret_value())
    try:
        return migrate_database(database)
    finally:
        database.close()


def migrate_database(database: Database) -> Migrated:
    """The same on a database that is open already."""
    if not database.on_postgres:
        _require_directory(database)
    with database.write() as connection:
        if database.on_postgres:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        _require_usable(connection, database.tables.meta)
        done = _upgrade(connection)
        if database.on_postgres and done.newer is None:
            ensure_partitions(connection)
    return done


def _require_usable(connection: Connection, meta: sa.Table) -> None:
    if not sa.inspect(connection).has_table(meta.name, schema=meta.schema):
        return
    needed = connection.execute(sa.select(meta.c.min_code)).scalar_one_or_none()
    if needed is not None and needed > CODE_LEVEL:
        raise StoreTooNewError(
            f"the store needs code of level {needed} or newer, this is {CODE_LEVEL}: upgrade Playbill here"
        )


def _upgrade(connection: Connection) -> Migrated:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    before = _revision(connection)
    steps = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    if before is not None and before not in steps:
        return Migrated(newer=before)  # migrations only expand, so what this code needs is there
    command.upgrade(config, "head")
    return Migrated(tuple(steps[steps.index(before) + 1 :] if before is not None else steps))


def _revision(connection: Connection) -> str | None:
    on_postgres = connection.dialect.name == "postgresql"
    options: dict[str, Any] = {
        "version_table": "alembic_version" if on_postgres else f"{PREFIX}alembic_version",
        "version_table_schema": SCHEMA if on_postgres else None,
    }
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _require_directory(database: Database) -> None:
    """A missing directory is a mistyped path more often than a wish: to make it would hide the store's real file."""
    folder = Path(database.url.database or "").resolve().parent
    if not folder.is_dir():
        raise ConfigurationError(f"store_url: there is no directory {folder}: make it, or correct the path")
