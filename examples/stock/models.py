"""The stock database: transfers between warehouses, their items, and a ledger of every movement.

The tables live in the same SQLite file as Playbill's, so a batch and its checkpoint are one transaction.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL_VARIABLE = "STOCK_DATABASE_URL"


class Base(DeclarativeBase):
    """Base of the tables."""


class Transfer(Base):
    """An order to move items from one warehouse to another."""

    __tablename__ = "stock_transfers"

    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[str]
    source: Mapped[str]
    target: Mapped[str]
    notes: Mapped[str] = mapped_column(default="")


class Item(Base):
    """One item of a transfer; ``position`` counts from 1 within it."""

    __tablename__ = "stock_items"

    transfer_id: Mapped[str] = mapped_column(ForeignKey("stock_transfers.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    warehouse: Mapped[str]


class Movement(Base):
    """The ledger: one row for each time an item was moved.

    No unique constraint stands guard here: an item that is moved twice has two rows, and the demo counts them.
    """

    __tablename__ = "stock_movements"

    id: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[str] = mapped_column(ForeignKey("stock_transfers.id"))
    position: Mapped[int]
    warehouse: Mapped[str]
    attempt: Mapped[int]
    pid: Mapped[int]
    moved_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


@lru_cache
def engine() -> Engine:
    """The engine of this process.

    Raises:
        RuntimeError: ``STOCK_DATABASE_URL`` is not set.
    """
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise RuntimeError(f"set {URL_VARIABLE} to the database of the stock, the same as Playbill's store")
    made = create_engine(url, connect_args={"timeout": 30})
    event.listen(made, "connect", _no_implicit_begin)
    event.listen(made, "begin", _begin_immediate)
    return made


def _no_implicit_begin(connection: Any, _record: Any) -> None:
    connection.isolation_level = None


def _begin_immediate(connection: Any) -> None:
    # Take the write lock first: a transaction that reads and then writes could not get it later on.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
