"""jobs list, show, cancel, retry."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import dramatiq
import pytest
import yaml

from playbill.store.values import Outcome, ProgressUpdate

from .conftest import Kit, Run, assert_error

Rows = Callable[..., Any]


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


# -- list ----------------------------------------------------------------------------------------------------------
def test_list_json_is_one_array_of_flat_objects_with_utc_times(kit: Kit, rows: Rows) -> None:
    kit.completed(tags=("stock", "night"), tenant="acme")
    kit.failed()
    kit.add(delay_s=60)
    listed = rows("jobs", "list")
    assert {row["status"] for row in listed} == {"completed", "failed", "scheduled"}
    for row in listed:
        assert list(row)[:2] == ["id", "status"]
        assert not [value for value in row.values() if isinstance(value, (dict, list))]
        assert row["created_at"].endswith("Z")
        assert datetime.fromisoformat(row["created_at"]).tzinfo is not None
    done = next(row for row in listed if row["status"] == "completed")
    assert done["tags"] == "stock,night"
    failed = next(row for row in listed if row["status"] == "failed")
    assert (failed["error_type"], failed["error_message"]) == ("OSError", "no route")


def test_list_of_nothing_is_an_empty_array_in_json_and_yaml(run: Run, rows: Rows) -> None:
    assert rows("jobs", "list") == []
    assert yaml.safe_load(run("jobs", "list", "-o", "yaml").stdout) == []


def test_yaml_and_json_say_the_same(kit: Kit, run: Run, rows: Rows) -> None:
    kit.failed(tenant="acmé")
    assert yaml.safe_load(run("jobs", "list", "-o", "yaml").stdout) == rows("jobs", "list")


def test_each_filter_selects(kit: Kit, rows: Rows) -> None:
    mine = kit.add(queue="pdf", actor="render", tenant="acme", tags=("night",))
    kit.add()
    for filters in (["--queue", "pdf"], ["--actor", "render"], ["--tenant", "acme"], ["--tag", "night"]):
        assert ids(rows("jobs", "list", *filters)) == [mine]
    assert len(rows("jobs", "list", "--status", "pending", "--status", "failed")) == 2
    assert rows("jobs", "list", "--status", "failed") == []
    assert len(rows("jobs", "list", "--since", "1h")) == 2
    assert rows("jobs", "list", "--until", "1h") == []
    assert len(rows("jobs", "list", "--since", "2020-01-01", "--until", "2999-01-01T00:00:00+02:00")) == 2


def test_the_table_is_plain_without_a_terminal_and_says_what_it_leaves_out(kit: Kit, run: Run) -> None:
    long = kit.add(id="x" * 90)
    kit.add()
    result = run("jobs", "list", "--limit", "1")
    assert result.stdout.startswith("ID")
    assert "\x1b" not in result.output
    assert "1 more match" in result.stderr
    assert long in run("jobs", "list").stdout


def test_a_control_character_in_a_value_does_not_reach_the_terminal(kit: Kit, run: Run) -> None:
    kit.failed(error="red\x1b[31m", type_="E\x1b[31m")
    assert "\x1b" not in run("jobs", "list").stdout
    assert "\x1b" not in run("jobs", "show", "job-0001").stdout


def test_a_running_job_shows_its_progress(kit: Kit, run: Run, rows: Rows) -> None:
    claimed = kit.start(kit.add())
    kit.store.progress([ProgressUpdate(claimed.id, claimed.epoch, claimed.token, 15, 22)])
    assert "15/22 items, 68 %" in run("jobs", "list").stdout
    (row,) = rows("jobs", "list")
    assert (row["done"], row["total"], row["percent"]) == (15, 22, 68)


# -- show ----------------------------------------------------------------------------------------------------------
def test_show_tells_arguments_result_and_history(kit: Kit, rows: Rows) -> None:
    job_id = kit.add("t1", kwargs={"notes": "x"})
    kit.end(job_id, Outcome.COMPLETED, result='{"sent": 1}')
    shown = rows("jobs", "show", job_id)
    assert (shown["id"], shown["status"], shown["args"], shown["kwargs"]) == (
        job_id,
        "completed",
        ["t1"],
        {"notes": "x"},
    )
    assert shown["result"] == {"sent": 1}


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_sensitive_arguments_are_masked_everywhere(kit: Kit, run: Run, output: str) -> None:
    job_id = kit.add("me@example.org", "654321", kwargs={"pin": "hunter22"}, sensitive=[1, "pin"])
    kit.end(
        job_id,
        Outcome.FAILED,
        error=_error("code 654321 was refused for hunter22"),
    )
    for args in (["show", job_id], ["list"]):
        result = run("jobs", *args, "--output", output)
        assert result.exit_code == 0
        assert "654321" not in result.output
        assert "hunter22" not in result.output
    shown = json.loads(run("jobs", "show", job_id, "--output", "json").stdout)
    assert shown["args"] == ["me@example.org", "***"]
    assert shown["kwargs"] == {"pin": "***"}
    assert shown["error_message"] == "code *** was refused for ***"


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_secrets_of_another_job_in_arguments_and_options_are_masked_too(kit: Kit, run: Run, output: str) -> None:
    # Given a callback that was sent the message of a failed job, which has a pipeline and a group behind it
    def login(code: str, **options: Any) -> dict[str, Any]:
        return dramatiq.Message("mail", "login", ("ann", code), {}, {"sensitive": [1], **options}).asdict()

    failed = login("s3cret", pipe_target=login("hunter22"), group_completion_callbacks=[login("654321")])
    job_id = kit.failed(failed, {"type": "OSError", "message": "no"}, 654321, "quotes s3cret", error="s3cret hunter22")
    # When it is shown
    shown = run("jobs", "show", job_id, "--output", output).output
    # Then the secrets are not, wherever they stand, and all else is
    for secret in ("s3cret", "hunter22", "654321"):
        assert secret not in shown
    for plain in ("ann", "OSError", "login", "quotes"):
        assert plain in shown


def test_a_message_that_cannot_be_decoded_is_shown_as_such(kit: Kit, rows: Rows) -> None:
    from playbill.store.values import Handover, NewJob

    kit.store.insert([NewJob("odd", "mail", "send", b"\xff not json")], handover=Handover.STORE)
    assert "cannot be decoded" in rows("jobs", "show", "odd")["message_problem"]


# -- cancel --------------------------------------------------------------------------------------------------------
def test_cancel_by_id_says_what_happened_to_each(kit: Kit, run: Run) -> None:
    running = kit.start(kit.add()).id
    waiting = kit.add()
    result = run("jobs", "cancel", waiting, running)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{waiting} cancelled", f"{running} cancelling"]
    assert kit.status(waiting) == "cancelled"


def test_cancel_of_an_ended_job_fails(kit: Kit, run: Run) -> None:
    assert_error(run("jobs", "cancel", kit.completed()), 1, "ended before")


def test_cancel_by_filter_counts_first_on_request(kit: Kit, run: Run) -> None:
    mine = [kit.add(queue="pdf") for _ in range(2)]
    other = kit.add()
    assert run("jobs", "cancel", "--queue", "pdf", "--dry-run").stdout == "2 jobs would be cancelled\n"
    assert [kit.status(job_id) for job_id in mine] == ["pending", "pending"]
    assert run("jobs", "cancel", "--queue", "pdf").stdout == "2 cancelled, 0 cancelling\n"
    assert [kit.status(job_id) for job_id in mine] == ["cancelled", "cancelled"]
    assert kit.status(other) == "pending"


# -- retry ---------------------------------------------------------------------------------------------------------
def test_retry_brings_a_failed_job_back(kit: Kit, run: Run) -> None:
    job_id = kit.failed()
    assert run("jobs", "retry", job_id).stdout == "1 jobs will run again\n"
    assert kit.status(job_id) == "pending"


def test_retry_by_filter_with_a_dry_run_count(kit: Kit, run: Run) -> None:
    kit.failed(type_="OSError")
    kit.failed(type_="KeyError")
    kit.completed()
    assert run("jobs", "retry", "--all", "--dry-run").stdout == "2 jobs would be retried\n"
    assert run("jobs", "retry", "--error-type", "KeyError", "--dry-run").stdout == "1 jobs would be retried\n"
    assert run("jobs", "retry", "--all", "--limit", "1").stdout == "1 jobs will run again\n"
    assert run("jobs", "retry", "--status", "failed", "--queue", "mail").stdout == "1 jobs will run again\n"
    assert run("jobs", "retry", "--all", "--dry-run").stdout == "0 jobs would be retried\n"


def test_retry_of_a_job_that_did_not_fail_is_refused(kit: Kit, run: Run) -> None:
    assert_error(run("jobs", "retry", kit.failed(), kit.completed()), 1, "completed")
    assert kit.status("job-0001") == "failed"


def test_retry_tells_of_keys_that_are_taken(kit: Kit, run: Run) -> None:
    job_id = kit.failed(key="t1")
    kit.add(key="t1")
    result = run("jobs", "retry", job_id)
    assert result.exit_code == 1
    assert "1 skipped" in result.stderr


def _error(text: str) -> Any:
    from playbill.store.values import ErrorRecord

    return ErrorRecord("ValueError", text, f"Traceback: {text}")


def test_a_number_that_json_does_not_have_is_shown_as_text(kit: Kit, run: Run) -> None:
    # Given
    job_id = kit.end(kit.add(float("nan"), {"least": float("-inf")}), result="[Infinity]")
    # When
    shown = json.loads(run("jobs", "show", job_id, "-o", "json").stdout, parse_constant=pytest.fail)
    # Then
    assert (shown["args"], shown["result"]) == (["NaN", {"least": "-Infinity"}], ["Infinity"])
