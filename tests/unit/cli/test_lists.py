"""queues, workers and parked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq

from playbill.store.values import ParkedMessage

from .conftest import Kit, Run, assert_error

Rows = Callable[..., Any]


def test_queues_show_counts_workers_and_policy(kit: Kit, rows: Rows, run: Run) -> None:
    kit.store.put_policy("pdf", {"retry": {"maxAttempts": 2}}, owner="up")
    kit.start(kit.add())
    kit.add()
    kit.failed(queue="web")
    by_id = {row["id"]: row for row in rows("queues", "list")}
    assert (by_id["mail"]["status"], by_id["mail"]["processing"], by_id["mail"]["workers"]) == ("running", 1, 2)
    assert (by_id["pdf"]["status"], by_id["pdf"]["owner"]) == ("idle", "up")
    assert by_id["web"]["failed"] == 1
    assert {row["id"] for row in rows("queues", "list", "--status", "idle")} == {"pdf", "web"}
    assert [row["id"] for row in rows("queues", "list", "--queue", "pdf")] == ["pdf"]
    assert len(rows("queues", "list", "--limit", "1")) == 1
    assert "PROCESSING" in run("queues", "list").stdout


def test_workers_show_what_they_run(kit: Kit, rows: Rows) -> None:
    job_id = kit.start(kit.add()).id
    kit.store.heartbeat("w1", lease_s=60, running=[job_id])
    by_id = {row["id"]: row for row in rows("workers", "list", "--queue", "mail")}
    assert (by_id["w1"]["pid"], by_id["w1"]["running"], by_id["w1"]["running_jobs"]) == (4242, 1, job_id)
    assert by_id["w1"]["status"] == "running"
    assert [row["id"] for row in rows("workers", "list", "--status", "starting")] == ["w2"]
    assert rows("workers", "list", "--queue", "other") == []
    assert rows("workers", "list", "--actor", "other") == []


def parked(kit: Kit, *messages: ParkedMessage) -> None:
    kit.store.park(messages)


def good_body(**options: Any) -> bytes:
    return dramatiq.Message("mail", "send", ("s3cret",), {}, options, message_id="m1").encode()


def test_parked_messages_are_listed_shown_and_dropped(kit: Kit, rows: Rows, run: Run) -> None:
    parked(kit, ParkedMessage("p1", "mail", b"\xff{", "not JSON", {"x": "1"}), ParkedMessage("p2", "pdf", b"", "empty"))
    listed = rows("parked", "list")
    assert {row["id"] for row in listed} == {"p1", "p2"}
    assert {row["status"] for row in listed} == {"parked"}
    assert [row["id"] for row in rows("parked", "list", "--queue", "pdf")] == ["p2"]
    shown = rows("parked", "show", "p1")
    assert (shown["reason"], shown["headers"], shown["body"]) == ("not JSON", {"x": "1"}, "\\xff{")
    assert run("parked", "drop", "p1", "p2").stdout == "2 dropped\n"
    assert rows("parked", "list") == []


def test_a_parked_message_is_shown_with_its_secrets_masked(kit: Kit, run: Run) -> None:
    parked(kit, ParkedMessage("p1", "mail", good_body(sensitive=[0]), "no row"))
    target = dramatiq.Message("mail", "send", ("hunter22",), {}, {"sensitive": [0]}).asdict()
    parked(kit, ParkedMessage("p2", "mail", good_body(pipe_target=target), "no row"))
    for output in ("table", "json"):
        assert "s3cret" not in run("parked", "show", "p1", "-o", output).output
        assert "hunter22" not in run("parked", "show", "p2", "-o", output).output


def test_redrive_makes_a_job_and_may_be_repeated(kit: Kit, run: Run, rows: Rows) -> None:
    parked(kit, ParkedMessage("p1", "mail", good_body(), "no row"))
    assert run("parked", "redrive", "p1").stdout == "p1 is job m1\n"
    assert kit.status("m1") == "pending"
    parked(kit, ParkedMessage("p2", "mail", good_body(), "again"))
    assert run("parked", "redrive", "p2").exit_code == 0
    assert rows("parked", "list") == []


def test_a_malformed_message_needs_a_repaired_body(kit: Kit, run: Run, tmp_path: Path) -> None:
    parked(kit, ParkedMessage("p1", "mail", b"{", "not JSON"), ParkedMessage("p2", "mail", good_body(), "no row"))
    assert_error(run("parked", "redrive", "p2", "p1"), 2, "p1", "--body")
    assert kit.store.get("m1") is None  # nothing was done by halves
    repaired = tmp_path / "body.json"
    repaired.write_bytes(good_body())
    assert run("parked", "redrive", "p1", "--body", str(repaired)).exit_code == 0
    assert kit.status("m1") == "pending"
