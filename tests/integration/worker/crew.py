"""Workers as a shell starts them, their store, and what they have done."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import playbill
from playbill.policy.states import JobStatus
from playbill.store.values import JobFilter, JobRow, WorkerRow
from tests.faults.audit import Expected
from tests.faults.stage import DEADLINE_S, Process, Stage
from tests.integration.worker import jobs
from tests.support.waiting import eventually

MODULE = "tests.integration.worker.worker_module"


@dataclass(frozen=True, slots=True)
class Note:
    """What a job has noted in the ledger."""

    at_ns: int
    job_id: str
    attempt: int
    event: str
    pid: int


class Crew(Stage):
    """A stage whose workers run the jobs of this folder too, through the command line."""

    def __init__(self, folder: Path, *, store_url: str, broker_url: str | None, queue: str, **limits: Any) -> None:
        super().__init__(folder, store_url=store_url, broker_url=broker_url, queue=queue, seed=1, **limits)
        self.gate = folder / "gate"
        jobs.declare(queue, self.runtime.broker)

    def command(self, *arguments: str, **values: Any) -> Process:
        """``playbill`` with these arguments."""
        return self._start("tests.integration.worker.run_worker", *arguments, **values)

    def start(
        self,
        *,
        processes: int = 1,
        threads: int = 1,
        queues: dict[str, int] | None = None,
        **values: Any,
    ) -> Process:
        """``playbill worker``; returns once all its processes are at work."""
        served = [f"--queue={name}={weight}" for name, weight in (queues or {self.queue: 1}).items()]
        started = self.command("worker", *served, f"--processes={processes}", f"--threads={threads}", MODULE, **values)
        eventually(lambda: len(self.at_work(started)) >= processes, deadline_s=DEADLINE_S, what="workers at work")
        return started

    def at_work(self, supervisor: Process) -> list[WorkerRow]:
        """Living workers of one supervisor."""
        pids = {child.pid for child in supervisor.children()}
        return [worker for worker in self.store.workers() if worker.pid in pids]

    def enqueue_many(self, actor: str, count: int, *args: Any) -> list[str]:
        """Enqueue jobs of a kind all at once; returns their ids."""
        return self.enqueue_all([(actor, *args)] * count)

    def enqueue_all(self, calls: Sequence[tuple[Any, ...]]) -> list[str]:
        """Enqueue jobs, each an actor's name and its arguments, all at once and in this order; returns their ids."""
        actors = self.runtime.broker.actors
        ids = [handle.id for handle in playbill.enqueue_many([actors[name].message(*args) for name, *args in calls])]
        self.expected.update({id_: Expected(name, tuple(args)) for id_, (name, *args) in zip(ids, calls, strict=True)})
        return ids

    def burst(self, count: int) -> None:
        """Run very short jobs: workers claim ahead from then on."""
        before = self._completed("noop")
        self.enqueue_many("noop", count)
        eventually(lambda: self._completed("noop") == before + count, deadline_s=DEADLINE_S, what="end of a burst")

    def _completed(self, actor: str) -> int:
        return self.store.count(JobFilter(actor=actor, statuses=(JobStatus.COMPLETED,)))

    def open(self) -> None:
        """Let all jobs that hold go on."""
        self.gate.touch()

    def hold(self, actor: str = "hold") -> str:
        """Enqueue a job that runs until ``open``."""
        job_id = self.enqueue(actor, str(self.gate))
        assert job_id is not None
        return job_id

    def row(self, job_id: str) -> JobRow:
        """A job that must exist."""
        found = self.store.get(job_id)
        assert found is not None
        return found

    def ends(self, job_id: str) -> JobRow:
        """Wait for the end of one job."""
        return self.await_terminal([job_id])[job_id]

    def notes(self, event: str = "start", job_id: str | None = None) -> list[Note]:
        """What the ledger says of one kind of event, of one job or of all, in order."""
        fields = [line.split(" ") for line in self.ledger.read_text("ascii").splitlines()]
        notes = [Note(int(at), id_, int(attempt), name, int(pid)) for at, id_, attempt, name, pid in fields]
        return [note for note in notes if note.event == event and job_id in (None, note.job_id)]

    def await_start(self, job_id: str, times: int = 1) -> int:
        """Wait until a job runs; returns the process it runs in."""
        what = f"start {times} of {job_id}"
        eventually(lambda: len(self.notes("start", job_id)) >= times, deadline_s=DEADLINE_S, what=what)
        return self.notes("start", job_id)[times - 1].pid

    def events(self, process: Process) -> Counter[str]:
        """How often a process and its children have logged each event."""
        return Counter(entry["event"] for entry in self.log(process))

    @staticmethod
    def log(process: Process) -> list[dict[str, Any]]:
        """The log of a process and its children."""
        lines = process.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def ask(self, process: Process, path: str) -> tuple[int, str]:
        """Status and body of what a supervisor serves over HTTP (it must run with ``http_port=0``)."""
        port = next(entry["port"] for entry in self.log(process) if entry["event"] == "health.serving")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
