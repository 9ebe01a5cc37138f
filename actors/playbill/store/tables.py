"""The tables as SQLAlchemy sees them: schema ``playbill`` on PostgreSQL, prefix ``playbill_`` on SQLite.

The migrations own the DDL (partitions, storage parameters, collations); a test compares the two. Live jobs and ended
ones are apart: the live table stays small enough to be cached and its updates stay HOT, the archive is append-only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

SCHEMA: Final = "playbill"
PREFIX: Final = "playbill_"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(moment: datetime) -> int:
    """A moment as SQLite stores it: milliseconds since 1970, UTC."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def from_ms(value: int) -> datetime:
    """The moment that ``to_ms`` stored."""
    return _EPOCH + timedelta(milliseconds=value)


class UtcTime(TypeDecorator[datetime]):
    """``timestamptz`` on PostgreSQL, integer milliseconds on SQLite: both sort and compare exactly."""

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of the dialect."""
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else sa.TIMESTAMP(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database."""
        return to_ms(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database, always in UTC: a session may have another time zone."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return from_ms(value)
        moment: datetime = value
        return moment.astimezone(UTC)


#: Decoded JSON. NULL is None, so that a JSON ``null`` never has to be told from it.
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

#: What live and archived jobs have in common, in the order of the archive's columns.
SHARED_COLUMNS: Final = (
    "id",
    "queue",
    "actor",
    "status",
    "epoch",
    "attempt",
    "priority",
    "tenant",
    "key",
    "tags",
    "message",
    "created_at",
    "run_at",
    "started_at",
    "worker",
    "token",
    "done",
    "total",
    "cursor",
    "error_type",
    "error_message",
    "error_traceback",
    "history",
    "wait_reason",
    "crashes",
    "policy_version",
)


def _job_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("tags", Json),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("run_at", UtcTime, nullable=False),
        sa.Column("started_at", UtcTime),
        sa.Column("worker", sa.Text),
        sa.Column("token", sa.BigInteger),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("cursor", Json),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("error_traceback", sa.Text),
        sa.Column("history", Json),
        sa.Column("wait_reason", sa.Text),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("policy_version", sa.BigInteger, nullable=False),
    ]


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables under the names of one dialect."""

    metadata: sa.MetaData
    prefix: str  #: what stands before a table's name in SQL text
    jobs: sa.Table
    archive: sa.Table
    outbox: sa.Table
    keys: sa.Table
    groups: sa.Table
    queues: sa.Table
    workers: sa.Table
    leaders: sa.Table
    rollups: sa.Table
    parked: sa.Table
    meta: sa.Table

    def sql(self, template: str) -> str:
        """SQL text with ``{p}`` replaced by the prefix of the dialect."""
        return template.replace("{p}", self.prefix)


def build(dialect: str) -> Tables:
    """The tables for ``postgresql`` or ``sqlite``."""
    on_postgres = dialect == "postgresql"
    metadata = sa.MetaData(schema=SCHEMA if on_postgres else None)

    def table(name: str, *columns: sa.Column[Any]) -> sa.Table:
        return sa.Table(name if on_postgres else PREFIX + name, metadata, *columns)

    return Tables(
        metadata=metadata,
        prefix=f"{SCHEMA}." if on_postgres else PREFIX,
        jobs=table(
            "jobs",
            sa.Column("id", sa.Text, primary_key=True),
            *_job_columns(),
            sa.Column("due_at", UtcTime),
            sa.Column("last_token", sa.BigInteger),
            sa.Column("suspect", sa.Boolean, nullable=False),
            sa.Column("cancelling", sa.Boolean, nullable=False),
            sa.Column("deferred_at", UtcTime),
        ),
        archive=table(
            "jobs_archive",
            sa.Column("id", sa.Text, nullable=False),
            *_job_columns(),
            sa.Column("finished_at", UtcTime, nullable=False),
            sa.Column("result", sa.Text),
        ),
        outbox=table(
            "outbox",
            sa.Column("job_id", sa.Text, primary_key=True),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("queue", sa.Text, nullable=False),
            sa.Column("publish_at", UtcTime, nullable=False),
        ),
        keys=table(
            "job_keys",
            sa.Column("tenant", sa.Text, primary_key=True),
            sa.Column("scope", sa.Text, primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("job_id", sa.Text, nullable=False),
            sa.Column("expires_at", UtcTime),
        ),
        groups=table(
            "job_groups",
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("remaining", sa.Integer, nullable=False),
            sa.Column("expires_at", UtcTime, nullable=False),
        ),
        queues=table(
            "queues",
            sa.Column("queue", sa.Text, primary_key=True),
            sa.Column("spec", Json, nullable=False),
            sa.Column("version", sa.BigInteger, nullable=False),
            sa.Column("owner", sa.Text, nullable=False),
            sa.Column("updated_at", UtcTime, nullable=False),
        ),
        workers=table("workers", *_worker_columns()),
        leaders=table(
            "leaders",
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("holder", sa.Text, nullable=False),
            sa.Column("expires_at", UtcTime, nullable=False),
        ),
        rollups=table("rollups", *_rollup_columns()),
        parked=table(
            "parked_messages",
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("queue", sa.Text, nullable=False),
            sa.Column("body", sa.LargeBinary, nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("headers", Json, nullable=False),
            sa.Column("parked_at", UtcTime, nullable=False),
        ),
        meta=table(
            "store_meta",
            sa.Column("store_id", sa.Text, primary_key=True),
            sa.Column("schema", sa.Integer, nullable=False),
            sa.Column("min_code", sa.Integer, nullable=False),
            sa.Column("policy_version", sa.BigInteger, nullable=False),
            sa.Column("created_at", UtcTime, nullable=False),
        ),
    )


def _worker_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hostname", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("queues", Json, nullable=False),
        sa.Column("actors", Json, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("running", Json, nullable=False),
        sa.Column("alone", sa.Text),
        sa.Column("end_reason", sa.Text),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("heartbeat_at", UtcTime, nullable=False),
        sa.Column("lease_expires_at", UtcTime, nullable=False),
    ]


def _rollup_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("queue", sa.Text, primary_key=True),
        sa.Column("actor", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("cancelled", sa.BigInteger, nullable=False),
        sa.Column("retried", sa.BigInteger, nullable=False),
        sa.Column("run_ms", sa.Double, nullable=False),
        sa.Column("run_ms_squared", sa.Double, nullable=False),
        sa.Column("wait_ms", sa.Double, nullable=False),
    ]
