"""playbill enqueue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Kit, Run, assert_error

MODULE = """
import dramatiq

@dramatiq.actor(queue_name="mail", sensitive=["code"])
def send(to: str, code: str = "", copies: int = 1) -> None: ...

@dramatiq.actor(actor_name="render-pdf", queue_name="pdf")
def render(number: int) -> None: ...
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "shop_jobs.py").write_text(MODULE)
    (tmp_path / "broken_jobs.py").write_text("raise RuntimeError('no luck')")
    (tmp_path / "leaving_jobs.py").write_text("raise SystemExit(7)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in ("shop_jobs", "broken_jobs", "leaving_jobs"):
        sys.modules.pop(name, None)


def test_module_and_actor_with_an_array(run: Run, kit: Kit) -> None:
    result = run("enqueue", "shop_jobs:send", '["me", "654321"]')
    assert result.exit_code == 0, result.output
    row = kit.store.get(result.stdout.strip())
    assert row is not None
    assert (row.queue, row.actor, row.status) == ("mail", "send", "pending")


def test_every_option_reaches_the_job(run: Run, kit: Kit, rows: Callable[..., Any]) -> None:
    options = [
        "--delay",
        "10m",
        "--key",
        "k1",
        "--tenant",
        "acme",
        "--tag",
        "a",
        "--tag",
        "b",
        "--priority",
        "8",
        "--queue",
        "pdf",
    ]
    result = run("enqueue", "send", '{"to": "me", "code": "654321"}', "--module", "shop_jobs", *options)
    assert result.exit_code == 0, result.output
    shown = rows("jobs", "show", result.stdout.strip())
    assert (shown["status"], shown["key"], shown["tenant"], shown["tags"]) == ("scheduled", "k1", "acme", ["a", "b"])
    assert (shown["priority"], shown["queue"]) == (8, "pdf")
    assert shown["kwargs"] == {"to": "me", "code": "***"}


def test_a_queue_with_a_policy_in_the_store_is_known(run: Run, kit: Kit) -> None:
    kit.store.put_policy("bulk", {}, owner="up")
    result = run("enqueue", "shop_jobs:send", '["me"]', "--queue", "bulk")
    assert result.exit_code == 0, result.output
    row = kit.store.get(result.stdout.strip())
    assert row is not None
    assert row.queue == "bulk"


def test_a_taken_key_answers_the_job_that_holds_it(run: Run) -> None:
    first = run("enqueue", "shop_jobs:send", '["me"]', "--key", "k1")
    sys.modules.pop("shop_jobs", None)
    second = run("enqueue", "shop_jobs:send", '["me"]', "--key", "k1")
    assert second.exit_code == 0
    assert second.stdout == first.stdout
    assert "k1" in second.stderr


def test_an_actor_is_found_by_its_name_where_the_variable_differs(run: Run) -> None:
    assert run("enqueue", "shop_jobs:render-pdf", "[1]").exit_code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["shop_jobs:sent", "[]"], ["sent", "render-pdf, send"]),
        (["no_such_module:send", "[]"], ["no_such_module"]),
        (["broken_jobs:send", "[]"], ["RuntimeError", "no luck"]),
        (["leaving_jobs:send", "[]"], ["cannot import leaving_jobs", "SystemExit: 7"]),
        (["shop_jobs:send", "[]"], ["missing", "to"]),
        (["shop_jobs:send", '{"too": "me"}'], ["send("]),
        (["shop_jobs:send", '["me"]', "--queue", "elsewhere"], ["queue", "elsewhere"]),
        (["shop_jobs:send", '["me"]', "--priority", "11"], ["priority", "11"]),
        (["shop_jobs:send", '["me"]', "--delay=-5s"], ["--delay"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    run: Run, kit: Kit, rows: Callable[..., Any], args: list[str], words: list[str]
) -> None:
    assert_error(run("enqueue", *args), 2, *words)
    assert rows("jobs", "list") == []


def test_a_payload_over_the_limit_is_refused_with_the_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYBILL_PAYLOAD_LIMIT_BYTES", "1000")
    assert_error(run("enqueue", "shop_jobs:send", f'["{"x" * 2000}"]'), 2, "1000", "PLAYBILL_PAYLOAD_LIMIT_BYTES")
