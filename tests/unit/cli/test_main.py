"""The program as a shell meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
