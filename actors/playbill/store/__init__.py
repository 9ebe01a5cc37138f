"""The store: the record of every job, the outbox of the broker, leases and policy.

``port`` says what a store does; ``sql`` does it on PostgreSQL and SQLite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playbill.settings import Settings
    from playbill.store.port import Store

__all__ = ["open_store"]


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name; connections are made at first use.

    A SQLite file that has no tables yet gets them here. PostgreSQL is migrated by ``playbill migrate`` only:
    ``check()`` says whether that is needed.

    Raises:
        ConfigurationError: ``store_url`` is wrong, or its driver is not installed.
    """
    from playbill.store.sql import open_sql_store

    return open_sql_store(settings)
