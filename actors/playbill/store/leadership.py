"""Leadership: one row, taken and renewed by compare-and-swap on the database's clock.

A leader's action checks the row at the start of its transaction and takes no lock on it: a leader that freezes must not
keep others from taking over. Every action is idempotent, so a late one does no harm.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.store.clock import POSTGRES_NOW, SQLITE_NOW, after, now
from playbill.store.engine import Database


class Leadership:
    """Leases of leaders."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._table = database.tables.leaders
        clock = POSTGRES_NOW if database.on_postgres else SQLITE_NOW
        self._enter = sa.text(
            f"INSERT INTO {database.tables.prefix}leaders (name, holder, expires_at)"  # noqa: S608 - constants
            f" VALUES (:name, :holder, {clock}) ON CONFLICT (name) DO NOTHING"
        )

    def lead(self, name: str, holder: str, *, lease_s: float) -> bool:
        """See the port."""
        table = self._table
        take = (
            sa.update(table)
            .where(table.c.name == name, sa.or_(table.c.holder == holder, table.c.expires_at <= now()))
            .values(holder=holder, expires_at=after(lease_s))
        )
        with self._db.single() as connection:
            if connection.execute(take).rowcount:
                return True
            if connection.execute(sa.select(table.c.name).where(table.c.name == name)).first() is not None:
                return False
            connection.execute(self._enter, {"name": name, "holder": holder})  # already expired: taken below
            return connection.execute(take).rowcount > 0

    def resign(self, name: str, holder: str) -> None:
        """See the port."""
        table = self._table
        with self._db.single() as connection:
            connection.execute(sa.delete(table).where(table.c.name == name, table.c.holder == holder))


def leads(database: Database, connection: Connection, holder: str) -> bool:
    """Whether ``holder`` leads now."""
    table = database.tables.leaders
    query = sa.select(table.c.name).where(table.c.holder == holder, table.c.expires_at > now())
    return connection.execute(query).first() is not None
