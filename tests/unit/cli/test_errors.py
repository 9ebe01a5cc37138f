"""Every error is one line on standard error, with a documented exit code, and shows no secret."""

from __future__ import annotations

from pathlib import Path

import dramatiq
import pytest

from playbill.cli import boundary, exits
from playbill.errors import BrokerUnavailableError, PlaybillError, StoreTooNewError
from playbill.store.values import ParkedMessage

from .conftest import Kit, Run, assert_error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["jobs", "list", "--limit", "-1"], ["--limit"]),
        (["jobs", "list", "--limit", "0"], ["--limit"]),
        (["jobs", "list", "--status", "lost"], ["--status", "lost"]),
        (["jobs", "list", "--output", "xml"], ["--output"]),
        (["jobs", "list", "--since", "yesterday"], ["--since", "yesterday", "2h"]),
        (["jobs", "list", "--until", "5 minutes"], ["--until"]),
        (["jobs", "list", "--since", "0001-01-01T00:00:00+14:00"], ["--since", "0001-01-01", "1 to 9999"]),
        (["jobs", "list", "--until", "9999-12-31T23:59:59-14:00"], ["--until", "9999-12-31", "1 to 9999"]),
        (["queues", "list", "--status", "bogus"], ["--status", "bogus", "waiting"]),
        (["workers", "list", "--status", "bogus"], ["--status", "bogus", "draining"]),
        (["jobs", "lst"], ["lst", "list"]),
        (["jobs", "list", "--colour"], ["--colour"]),
        (["jobs", "cancel"], ["--all"]),
        (["jobs", "retry"], ["--all"]),
        (["jobs", "retry", "a", "--queue", "mail"], ["not both"]),
        (["jobs", "retry", "--status", "completed"], ["failed and cancelled"]),
        (["jobs", "cancel", "--status", "failed"], ["ended"]),
        (["jobs", "watch", "--timeout", "5"], ["--timeout", "not a duration"]),
        (["enqueue", "json:loads", "["], ["JSON", "not valid"]),
        (["enqueue", "json:loads", "3"], ["JSON", "3 is neither an array nor an object", "[3]"]),
        (["enqueue", "json:loads", "[NaN]"], ["JSON", "NaN"]),
        (["enqueue", "json:loads", '{"a": [-Infinity]}'], ["JSON", "-Infinity"]),
        (["enqueue", "json:loads", "[1e999]"], ["JSON", "1e999"]),
        (["enqueue", "json:loads", "[]", "--delay", "soon"], ["--delay", "soon"]),
        (["enqueue", "send"], ["--module"]),
        (["up"], ["--file"]),
        (["up", "-f", "nowhere.yaml"], ["nowhere.yaml"]),
        (["worker", "json"], ["--queue"]),
        (["worker", "--queue", "mail"], ["MODULE"]),
        (["worker", "--queue", "mail=0", "json"], ["weight"]),
        (["worker", "--queue", "mail", "--queue", "mail", "json"], ["twice"]),
        (["worker", "--queue", "two words", "json"], ["two words"]),
        (["worker", "--queue", "mail", "--threads", "0", "json"], ["--threads"]),
        (["worker", "--queue", "mail", "no_such_module"], ["no_such_module"]),
        (["parked", "redrive", "a", "b", "--body", "store.db"], ["one id"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, kit: Kit, args: list[str], words: list[str]) -> None:
    assert_error(run(*args), exits.ExitCode.USAGE, *words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["jobs", "show", "nope"], ["nope"]),
        (["jobs", "cancel", "nope", "never"], ["nope", "never"]),
        (["jobs", "retry", "nope"], ["nope"]),
        (["jobs", "watch", "nope"], ["nope"]),
        (["parked", "show", "nope"], ["nope"]),
        (["parked", "drop", "nope"], ["nope"]),
        (["parked", "redrive", "nope"], ["nope"]),
    ],
)
def test_an_unknown_id_is_exit_code_3(run: Run, args: list[str], words: list[str]) -> None:
    assert_error(run(*args), exits.ExitCode.NOT_FOUND, *words)


def test_a_wrong_store_url_is_said_without_its_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYBILL_STORE_URL", "mysql://me:hunter22@db/jobs")
    result = run("jobs", "list")
    assert_error(result, exits.ExitCode.USAGE, "store_url")
    assert "hunter22" not in result.output


@pytest.mark.parametrize("command", ["jobs", "parked"])
def test_a_wrong_broker_url_is_found_before_anything_is_brought_back(
    run: Run, kit: Kit, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # Given
    body = dramatiq.Message("mail", "send", (), {}, {}, message_id="m1").encode()
    kit.store.park([ParkedMessage("p1", "mail", body, "no row")])
    job_id = kit.add()
    kit.store.cancel([job_id])
    monkeypatch.setenv("PLAYBILL_BROKER_URL", "http://me:hunter22@rabbit")
    # When
    result = run("jobs", "retry", job_id) if command == "jobs" else run("parked", "redrive", "p1")
    # Then
    assert_error(result, exits.ExitCode.USAGE, "PLAYBILL_BROKER_URL", "amqp://")
    assert "hunter22" not in result.output
    assert kit.status(job_id) == "cancelled"
    assert kit.store.get("m1") is None


def test_a_mistyped_path_of_the_store_makes_no_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBILL_STORE_URL", f"sqlite:///{tmp_path}/nonexistent/dir/x.db")
    assert_error(run("jobs", "list"), exits.ExitCode.USAGE, f"{tmp_path}/nonexistent/dir", "make it")
    assert not (tmp_path / "nonexistent").exists()


def test_a_store_that_cannot_be_reached_is_exit_code_4(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYBILL_STORE_URL", "postgresql://me:hunter22@127.0.0.1:1/jobs")
    result = run("queues", "list")
    assert_error(result, exits.ExitCode.UNAVAILABLE, "127.0.0.1:1")
    assert "hunter22" not in result.output


def test_an_unknown_setting_is_named_with_the_nearest_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYBILL_STORE_ULR", "sqlite:///x.db")
    assert_error(run("jobs", "list"), exits.ExitCode.USAGE, "PLAYBILL_STORE_ULR", "PLAYBILL_STORE_URL")


def test_config_names_the_file_of_settings_before_or_behind_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLAYBILL_STORE_URL")
    config = tmp_path / "other.toml"
    config.write_text(f'store_url = "sqlite:///{tmp_path}/other.db"\n')
    for args in (["--config", str(config), "jobs", "list"], ["jobs", "list", f"--config={config}"]):
        (tmp_path / "other.db").unlink(missing_ok=True)
        assert run(*args).exit_code == 0
        assert (tmp_path / "other.db").exists()
    assert_error(run("jobs", "list", "--config", "gone.toml"), exits.ExitCode.USAGE, "gone.toml")


def test_debug_shows_the_trace_and_still_ends_with_the_line(run: Run) -> None:
    result = run("jobs", "show", "nope", "--debug")
    assert result.exit_code == exits.ExitCode.NOT_FOUND
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: no job nope"


def test_what_nobody_expected_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("playbill.store.open_store", lambda _: 1 / 0)
    assert_error(run("jobs", "list"), exits.ExitCode.FAILED, "ZeroDivisionError", "--debug")


def test_help_names_the_exit_codes_and_version_is_plain(run: Run) -> None:
    for args in (["--help"], ["jobs", "list", "--help"], ["worker", "--help"]):
        result = run(*args)
        assert result.exit_code == 0
        assert "Exit codes: 0 ok" in " ".join(result.stdout.split())
    assert run("--version").stdout.startswith("playbill ")


def test_each_family_of_errors_has_its_code() -> None:
    assert exits.exit_code(BrokerUnavailableError("x")) == exits.ExitCode.UNAVAILABLE
    assert exits.exit_code(StoreTooNewError("x")) == exits.ExitCode.UNAVAILABLE
    assert exits.exit_code(PlaybillError("x")) == exits.ExitCode.FAILED


def test_one_line_is_safe_for_a_terminal() -> None:
    assert exits.one_line("a\n b\x1b[31m amqp://u:p@h/") == "a b?[31m amqp://u:***@h/"


def test_global_options_move_to_the_front_but_not_past_a_double_dash() -> None:
    move = boundary._globals_first
    assert move(["jobs", "list", "--debug"]) == ["--debug", "jobs", "list"]
    assert move(["up", "--config", "f", "m"]) == ["--config", "f", "up", "m"]
    assert move(["x", "--", "--debug"]) == ["x", "--", "--debug"]
    assert move(["x", "--config"]) == ["--config", "x"]


def test_a_store_not_migrated_is_exit_code_4_and_migrate_heals_it(
    run: Run, empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBILL_STORE_URL", empty_postgres)
    assert_error(run("jobs", "list"), exits.ExitCode.UNAVAILABLE, "playbill migrate")
    assert_error(run("worker", "--queue", "mail", "json"), exits.ExitCode.UNAVAILABLE, "playbill migrate")
    scheduler = run("scheduler")
    assert scheduler.exit_code == exits.ExitCode.UNAVAILABLE
    assert scheduler.stderr.splitlines()[-1] == "error: the store has no tables yet: run `playbill migrate`"
    first = run("migrate")
    assert first.exit_code == 0
    assert first.stdout.split()
    assert run("jobs", "list").exit_code == 0
    again = run("migrate")
    assert (again.exit_code, again.stdout) == (0, "")
