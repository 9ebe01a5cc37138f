"""What every benchmark needs: the private servers of `make services`, a fresh database, a fresh queue, a table."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from playbill.settings import Settings, load
from playbill.store.migrate import migrate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import services  # noqa: E402 - after the path


def url_of(name: str) -> str:
    """URL of a running service, or the end with a hint."""
    found = services.urls().get(services.VARIABLES[name])
    if found is None:
        sys.exit(f"{name} is not running; start it with: make services")
    return found


@contextlib.contextmanager
def fresh_settings(*, broker: bool = True, **overrides: object) -> Iterator[Settings]:
    """Settings with a database of its own, dropped at the end."""
    server = url_of("postgres")
    name = f"bench_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    settings = load(store_url=url, broker_url=url_of("rabbitmq") if broker else None, log_level="error", **overrides)
    migrate(settings)
    try:
        yield settings
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fresh_queue() -> str:
    """A queue name nobody used."""
    return f"bench_{secrets.token_hex(4)}"


def delete_queue(name: str) -> None:
    """Remove a queue from RabbitMQ, and what was made beside it."""
    import pika

    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url_of("rabbitmq")))) as connection:
        for each in (name, f"{name}.parked", f"{name}.DQ", f"{name}.XQ"):
            connection.channel().queue_delete(each)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=120).print(table)
