"""Brings a store's tables up to date. Migrations only expand, so older code of the previous minor keeps working."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from playbill.errors import ConfigurationError
from playbill.settings import Settings
from playbill.store.engine import Database
from playbill.store.partitions import ensure_partitions
from playbill.store.tables import PREFIX, SCHEMA

#: Any fixed number: two migrations at once wait for each other on it, to the end of the transaction.
_MIGRATION_LOCK: Final = 7_329_111_905


def migrate(settings: Settings) -> list[str]:
    """Create or upgrade the tables; safe when several run at once.

    Returns:
        The revisions applied now, in order; empty where the store was up to date.

    Raises:
        ConfigurationError: The URL is wrong, or the file's directory cannot be made.
        StoreUnavailableError: The database cannot be reached.
    """
    database = Database(settings.store_url.get_secret_value())
    try:
        return migrate_database(database)
    finally:
        database.close()


def migrate_database(database: Database) -> list[str]:
    """The same on a database that is open already."""
    if not database.on_postgres:
        _make_directory(database)
    with database.write() as connection:
        if database.on_postgres:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        applied = _upgrade(connection)
        if database.on_postgres:
            ensure_partitions(connection)
    return applied


def _upgrade(connection: Connection) -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    before = _revision(connection)
    command.upgrade(config, "head")
    after = _revision(connection)
    return [] if before == after else _between(config, before, after)


def _revision(connection: Connection) -> str | None:
    on_postgres = connection.dialect.name == "postgresql"
    options: dict[str, Any] = {
        "version_table": "alembic_version" if on_postgres else f"{PREFIX}alembic_version",
        "version_table_schema": SCHEMA if on_postgres else None,
    }
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _between(config: Config, before: str | None, after: str | None) -> list[str]:
    from alembic.script import ScriptDirectory

    steps = ScriptDirectory.from_config(config).iterate_revisions(after or "head", before or "base")
    return [step.revision for step in steps][::-1]


def _make_directory(database: Database) -> None:
    folder = Path(database.url.database or "").resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"store_url: cannot make the directory {folder}: {error.strerror}") from None
