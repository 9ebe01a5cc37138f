"""Workers that cannot work at all say why in one line, and end: nobody is helped by trying again."""

from __future__ import annotations

import pytest

from playbill.worker.process import EXIT_REFUSED
from tests.faults.stage import Process
from tests.integration.worker.crew import MODULE, Crew
from tests.support.waiting import eventually

BROKEN = "tests.integration.worker.broken_module"


def last_line(process: Process) -> str:
    return process.log.read_text().splitlines()[-1]


def test_a_worker_whose_module_cannot_be_imported_ends(embedded: Crew) -> None:
    # Given, When
    worker = embedded.command("worker", "--queue=work", "--processes=2", BROKEN)
    # Then
    assert worker.wait() == 2
    assert last_line(worker) == f"error: module {BROKEN}: cannot be imported: RuntimeError: no luck today"


def test_a_worker_that_is_stopped_while_it_starts_ends_cleanly(embedded: Crew) -> None:
    # Given: a process that knows no signals yet
    worker = embedded.command("worker", "--queue=work", MODULE)
    eventually(worker.children, deadline_s=30)
    # When, Then: nothing had begun, so nothing was lost
    assert worker.stop() == 0, worker.log.read_text()


@pytest.mark.postgres
@pytest.mark.rabbitmq
def test_a_worker_whose_store_is_not_migrated_ends(bare_database: str, embedded: Crew, rabbitmq_url: str) -> None:
    # Given
    urls = {"store_url": bare_database, "broker_url": rabbitmq_url}
    # When: by the command line, which looks first, and without it
    command = embedded.command("worker", "--queue=work", MODULE, **urls)
    bare = embedded._start("tests.faults.run_worker", "1", "1", **urls)
    # Then
    assert (command.wait(), bare.wait()) == (4, EXIT_REFUSED)
    assert "playbill migrate" in last_line(command)
    assert "playbill migrate" in last_line(bare)
