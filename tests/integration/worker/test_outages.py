"""A store that is away while a process is replaced stops nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from playbill.policy.states import JobStatus
from tests.integration.scheduler.proxy import Proxy
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


@pytest.fixture
def proxy(postgres_database: str) -> Iterator[Proxy]:
    """Between the workers and their store."""
    port = sa.make_url(postgres_database).port
    assert port is not None
    made = Proxy(port)
    yield made
    made.close()


@pytest.fixture
def apart(postgres_database: str, tmp_path: Path) -> Iterator[Crew]:
    """The test itself reaches the store always."""
    made = Crew(tmp_path, store_url=postgres_database, broker_url=None, queue="work")
    yield made
    made.close()


def test_a_process_that_dies_while_the_store_is_away_is_replaced_and_the_others_go_on(
    apart: Crew, proxy: Proxy
) -> None:
    # Given: one busy process, and one that idles
    through = sa.make_url(str(apart._values["store_url"])).set(host="127.0.0.1", port=proxy.port)
    supervisor = apart.start(processes=2, store_url=through.render_as_string(hide_password=False), lease_s=60)
    job = apart.hold()
    busy = apart.await_start(job)
    # When: the store goes away, and with it the process that idles
    proxy.cut()
    (idle,) = [child for child in supervisor.children() if child.pid != busy]
    idle.kill()

    def replaced() -> bool:
        assert supervisor.children(), supervisor.log.read_text()
        return len({child.pid for child in supervisor.children()} - {idle.pid}) == 2

    eventually(replaced, deadline_s=20, what="a new process")
    seen = apart.events(supervisor)["store.unavailable"]
    eventually(lambda: apart.events(supervisor)["store.unavailable"] > seen + 2, deadline_s=20, what="tries")
    # Then: it waits for the store, and is at work once that is back
    proxy.mend()
    others = apart.enqueue_many("noop", 5)
    assert {row.status for row in apart.await_terminal(others).values()} == {JobStatus.COMPLETED}
    # And: nobody else has noticed
    apart.open()
    assert (apart.ends(job).status, apart.row(job).attempt) == (JobStatus.COMPLETED, 1)
    assert [note.pid for note in apart.notes("end", job)] == [busy]
    assert supervisor.stop() == 0
