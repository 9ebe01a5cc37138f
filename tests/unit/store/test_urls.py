"""Which URLs are a store."""

from __future__ import annotations

import sys

import pytest

from playbill.errors import ConfigurationError
from playbill.store.engine import parse_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_means_psycopg_3(scheme: str) -> None:
    url = parse_url(f"{scheme}://user:p%40ss%2Fword@host:5433/db?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.password, url.port, url.query["sslmode"]) == ("p@ss/word", 5433, "require")


def test_a_sqlite_file() -> None:
    assert parse_url("sqlite:///some/file.db").database == "some/file.db"


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"install playbill\[postgres\]"):
        parse_url("postgresql://user:secret@host/db")


@pytest.mark.parametrize(
    "text", ["", "x", "http://h/d", "mysql://user:secret@h/d", "sqlite://", "sqlite:///file:x?mode=ro"]
)
def test_anything_else_is_refused_without_telling_its_password(text: str) -> None:
    with pytest.raises(ConfigurationError, match="store_url") as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)
