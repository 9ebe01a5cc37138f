"""jobs watch."""

from __future__ import annotations

import threading

import pytest

from playbill.store.values import Finish, Handover, Outcome, ProgressUpdate
from tests.support.waiting import eventually

from .conftest import Kit, Run


def test_watch_of_ended_jobs_ends_at_once(kit: Kit, run: Run) -> None:
    result = run("jobs", "watch", kit.completed())
    assert (result.exit_code, result.stdout) == (0, "job-0001 send: completed\n")


@pytest.mark.parametrize("make", ["failed", "cancelled"])
def test_watch_fails_if_a_job_did(kit: Kit, run: Run, make: str) -> None:
    good = kit.completed()
    bad = kit.failed() if make == "failed" else kit.add()
    if make == "cancelled":
        kit.store.cancel([bad])
    result = run("jobs", "watch", good, bad)
    assert result.exit_code == 1
    assert f"{bad} send: {make}" in result.stdout


def test_watch_prints_a_line_for_each_step_until_the_end(kit: Kit, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("playbill.cli.watch.write", shown.append)
    claimed = kit.start(kit.add())

    def work() -> None:
        eventually(lambda: shown, deadline_s=30)
        kit.store.progress([ProgressUpdate(claimed.id, claimed.epoch, claimed.token, 15, 22)])
        eventually(lambda: "15/22" in shown[-1], deadline_s=30)
        finish = Finish(claimed.id, claimed.epoch, claimed.token, Outcome.COMPLETED, "mail", "send", done=22, total=22)
        kit.store.finish([finish], handover=Handover.STORE)

    thread = threading.Thread(target=work)
    thread.start()
    result = run("jobs", "watch", "--queue", "mail")
    thread.join()
    assert result.exit_code == 0
    assert shown == [
        "job-0001 send: processing",
        "job-0001 send: processing, 15/22 items, 68 %",
        "job-0001 send: completed, 22/22 items, 100 %",
    ]


def test_watch_gives_up_in_time(kit: Kit, run: Run) -> None:
    kit.add()
    result = run("jobs", "watch", "--queue", "mail", "--timeout", "100ms")
    assert result.exit_code == 1
    assert "1 jobs have not ended in time" in result.stderr


def test_nothing_to_watch_is_no_error(run: Run) -> None:
    result = run("jobs", "watch")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no live job" in result.stderr
