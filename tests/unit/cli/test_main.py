"""The program as a shell meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa

from playbill.cli import main

from .conftest import Kit

PROGRAM = [sys.executable, "-m", "playbill.cli.main"]


def test_help_imports_nothing_heavy() -> None:
    heavy = ("pydantic", "dramatiq", "sqlalchemy", "pika", "alembic")
    code = f"import sys; import playbill.cli.app; print([name for name in {heavy!r} if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main, "find_spec", lambda _name: None)

    with pytest.raises(SystemExit) as leaving:
        main.run()

    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: the command line needs typer and rich: pip install 'playbill[cli]'\n"


@pytest.mark.parametrize("unbuffered", ["1", ""])
@pytest.mark.parametrize("command", [["jobs", "list"], ["jobs", "list", "-o", "json"], ["--help"], ["jobs", "--help"]])
def test_a_reader_that_goes_away_is_no_error(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, command: list[str], unbuffered: str
) -> None:
    kit.add()
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with subprocess.Popen([*PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as producer:
        assert producer.stdout is not None
        assert producer.stderr is not None
        producer.stdout.close()

        errors = producer.stderr.read()

    assert (producer.returncode, errors) == (0, b"")


@pytest.mark.parametrize("command", [["scheduler"], ["worker", "--queue", "mail", "json"], ["migrate"]])
def test_a_store_that_needs_newer_code_ends_a_process_with_one_line(kit: Kit, command: list[str]) -> None:
    # Given
    with kit.store.database.write() as connection:
        connection.execute(sa.update(kit.store.database.tables.meta).values(min_code=99))
    # When
    ended = subprocess.run([*PROGRAM, *command], capture_output=True, text=True, timeout=60, check=False)
    # Then
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert (ended.returncode, line.partition(":")[0]) == (4, "error")
    assert "level 99" in line


def test_migrate_says_that_newer_code_has_made_the_store(kit: Kit) -> None:
    # Given
    with kit.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE playbill_alembic_version SET version_num = '9999'")
    # When
    ended = subprocess.run([*PROGRAM, "migrate"], capture_output=True, text=True, timeout=60, check=False)
    # Then
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "newer code" in ended.stderr
    assert "9999" in ended.stderr
