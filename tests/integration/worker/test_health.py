"""What a worker serves over HTTP."""

from __future__ import annotations

import json
import re

from tests.faults.stage import Process
from tests.integration.worker.crew import Crew
from tests.support.waiting import eventually


def is_ready(crew: Crew, supervisor: Process) -> bool:
    return crew.ask(supervisor, "/readyz")[0] == 200


def test_a_worker_is_healthy_and_ready_while_all_its_processes_are_at_work(embedded: Crew) -> None:
    # Given
    supervisor = embedded.start(processes=2, http_port=0)
    # When, Then
    eventually(lambda: is_ready(embedded, supervisor), deadline_s=30)
    status, body = embedded.ask(supervisor, "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "ok", "checks": {"processes": "ok"}})
    # And when one dies: not ready until it is replaced, and no reason to restart the others
    supervisor.children()[0].kill()
    eventually(lambda: not is_ready(embedded, supervisor), deadline_s=10, what="not ready")
    assert embedded.ask(supervisor, "/healthz")[0] == 200
    eventually(lambda: is_ready(embedded, supervisor), deadline_s=60, what="ready again")


def test_a_dead_thread_makes_its_process_unhealthy_until_it_is_replaced(embedded: Crew) -> None:
    # Given: a process that still has a job when one of its threads dies
    supervisor = embedded.start(threads=2, http_port=0, heartbeat_s=0.2, drain_grace_s=60)
    job = embedded.hold()
    old = embedded.await_start(job)
    # When
    embedded.enqueue("end_thread")
    # Then: it says so
    eventually(lambda: embedded.ask(supervisor, "/healthz")[0] == 503, deadline_s=20, what="unhealthy")
    _, body = embedded.ask(supervisor, "/healthz")
    assert re.fullmatch(r"process \d+: 1 of Dramatiq's threads have died", json.loads(body)["checks"]["processes"])
    # And: a new process takes over, and the old one is gone once its job has ended
    assert embedded.await_start(embedded.enqueue("noop")) != old
    embedded.open()
    assert embedded.ends(job).attempt == 1
    eventually(lambda: embedded.ask(supervisor, "/healthz")[0] == 200, deadline_s=60, what="healthy again")


def test_the_metrics_of_all_processes_are_served_together(embedded: Crew) -> None:
    # Given: a job in each of two processes
    supervisor = embedded.start(processes=2, threads=1, http_port=0, heartbeat_s=0.2)
    held = [embedded.hold(), embedded.hold()]
    assert len({embedded.await_start(job) for job in held}) == 2

    def told(line: str) -> bool:
        status, text = embedded.ask(supervisor, "/metrics")
        assert status == 200
        return line in text.splitlines()

    # When, Then: while they run
    eventually(lambda: told('playbill_jobs_running{queue="work"} 2.0'))
    assert re.search(r"^playbill_claims_total [1-9]", embedded.ask(supervisor, "/metrics")[1], re.MULTILINE)
    # And: when they have ended
    embedded.open()
    embedded.await_terminal(held)
    eventually(lambda: told('playbill_jobs_finished_total{actor="hold",outcome="completed",queue="work"} 2.0'))
    eventually(lambda: told('playbill_jobs_running{queue="work"} 0.0'))
