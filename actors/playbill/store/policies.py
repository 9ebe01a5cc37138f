"""Policies of queues: versioned over all queues, so that one number tells whether anything has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from playbill.errors import PolicyConflictError
from playbill.store.clock import now
from playbill.store.engine import Database
from playbill.store.values import QueuePolicy

#: A policy of this owner is nobody else's to change; other owners take over from each other, and it from all.
OPERATOR: Final = "operator"


class Policies:
    """The policies of all queues."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._table = database.tables.queues

    def put(self, queue: str, spec: Mapping[str, Any], *, owner: str) -> QueuePolicy:
        """See the port."""
        table, meta = self._table, self._db.tables.meta
        with self._db.write() as connection:
            # The row is locked first: one change at a time, so versions are in the order of commits.
            latest = connection.execute(sa.select(meta.c.policy_version).with_for_update()).scalar_one()
            present = connection.execute(sa.select(table).where(table.c.queue == queue)).one_or_none()
            if present is not None:
                if present.owner == OPERATOR != owner:
                    raise PolicyConflictError(
                        f"the policy of queue {queue} belongs to the {OPERATOR}: change its JobQueue object instead"
                    )
                if (present.spec, present.owner) == (dict(spec), owner):
                    return QueuePolicy(queue, present.spec, present.version, owner)
            version: int = latest + 1
            connection.execute(sa.update(meta).values(policy_version=version))
            values = {"spec": dict(spec), "version": version, "owner": owner, "updated_at": now()}
            if present is None:
                connection.execute(sa.insert(table).values(queue=queue, **values))
            else:
                connection.execute(sa.update(table).where(table.c.queue == queue).values(**values))
        return QueuePolicy(queue, dict(spec), version, owner)

    def all(self) -> dict[str, QueuePolicy]:
        """See the port."""
        with self._db.read() as connection:
            return self.all_on(connection)

    def all_on(self, connection: Connection) -> dict[str, QueuePolicy]:
        """The same in a transaction."""
        table = self._table
        rows = connection.execute(sa.select(table).order_by(table.c.queue))
        return {row.queue: QueuePolicy(row.queue, row.spec, row.version, row.owner) for row in rows}
