"""A stage for faults: a store, perhaps a broker, real workers and schedulers as processes, and the jobs enqueued."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dramatiq
import psutil
import sqlalchemy as sa

import playbill
from playbill import client
from playbill.errors import StoreError, StoreUnavailableError
from playbill.policy.states import TERMINAL
from playbill.settings import Settings
from playbill.store.engine import parse_url
from playbill.store.migrate import migrate
from playbill.store.values import JobFilter, JobRow, WorkerRow
from tests.faults import jobs
from tests.faults.audit import Expected, audit, ledger
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parent.parent.parent
#: Short leases, so that a seed takes seconds; long enough for two busy cores.
LIMITS = {"heartbeat_s": 0.5, "lease_s": 3.0, "leader_lease_s": 2.0, "relay_after_s": 1.0, "drain_grace_s": 3.0}
#: Ten times what the slowest recovery (a lease, then the relay) takes.
DEADLINE_S = 60.0


class Process:
    """A supervisor or a scheduler, in a process group of its own."""

    def __init__(self, module: str, *args: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def children(self) -> list[psutil.Process]:
        """Its child processes that live."""
        if self._process.poll() is not None:
            return []
        found = psutil.Process(self.pid).children()
        return [child for child in found if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def signal(self, number: signal.Signals) -> None:
        """To itself alone."""
        if self._process.poll() is None:
            os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL to itself and all its children."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and wait; returns the exit code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait(timeout_s)


class Stage:
    """Everything one seed needs.

    Args:
        folder: For logs and the ledger.
        store_url: An empty database; migrated here.
        broker_url: RabbitMQ; None claims from the store.
        queue: Name of the queue.
        seed: Of all that is random here.
        limits: Settings that differ from ``LIMITS``.
    """

    def __init__(
        self, folder: Path, *, store_url: str, broker_url: str | None, queue: str, seed: int, **limits: Any
    ) -> None:
        self.folder = folder
        self.queue = queue
        self.random = random.Random(seed)
        self.expected: dict[str, Expected] = {}
        self.refused: list[StoreError] = []
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self._values = {"store_url": store_url, "broker_url": broker_url, **LIMITS, **limits}
        self._processes: list[Process] = []
        settings = Settings(**self._values)
        migrate(settings)
        self.database = sa.create_engine(parse_url(store_url), poolclass=sa.NullPool)
        with self.database.begin() as connection:
            connection.execute(sa.text("CREATE TABLE applied (job_id text NOT NULL, batch integer NOT NULL)"))
        client.reset()
        self.runtime = client.configure(settings)
        self.store = self.runtime.store
        jobs.declare(queue, self.runtime.broker)

    # -- processes -----------------------------------------------------------------------------------------------
    def start_workers(self, processes: int = 2, threads: int = 4, **values: Any) -> Process:
        """A supervisor; returns once its workers are registered."""
        known = {worker.id for worker in self.store.workers()}
        started = self._start("tests.faults.run_worker", str(processes), str(threads), **values)

        def registered() -> list[WorkerRow]:
            pids = {child.pid for child in started.children()}
            return [each for each in self.store.workers() if each.id not in known and each.pid in pids]

        eventually(lambda: len(registered()) >= processes, deadline_s=DEADLINE_S, what="workers registered")
        return started

    def start_scheduler(self, **values: Any) -> Process:
        """A scheduler."""
        return self._start("tests.faults.run_scheduler", **values)

    def _start(self, module: str, *args: str, **values: Any) -> Process:
        settings = {name: value for name, value in {**self._values, **values}.items() if value is not None}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PLAYBILL_")}
        environment |= {f"PLAYBILL_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= {jobs.LEDGER: str(self.ledger), jobs.QUEUE: self.queue, "PLAYBILL_LOG_FORMAT": "json"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "actors"), str(ROOT)])
        name = module.rsplit("_", 1)[1]
        log = self.folder / f"{name}-{len(self._processes)}.log"
        process = Process(module, *args, environment=environment, log=log)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End every process and connection."""
        for process in self._processes:
            process.kill_group()
        client.reset()
        self.database.dispose()

    # -- jobs ----------------------------------------------------------------------------------------------------
    def enqueue(self, actor: str, *args: Any, **options: Any) -> str | None:
        """Enqueue one job; None where the store refused it, which must be an error that passes."""
        message: dramatiq.Message[Any] = self.runtime.broker.actors[actor].message(*args)
        try:
            handle = playbill.enqueue(message, **options)
        except StoreError as error:
            if not error.retryable:
                raise
            self.refused.append(error)
            return None
        self.expected[handle.id] = Expected(actor, args)
        return handle.id

    def enqueue_mix(self, count: int) -> list[str]:
        """Random small jobs of all kinds; returns the ids of the accepted ones."""
        return [id_ for id_ in (self.enqueue_any() for _ in range(count)) if id_ is not None]

    def enqueue_any(self) -> str | None:
        """One random small job."""
        draw = self.random.random()
        options: dict[str, Any] = {"delay": self.random.uniform(0.1, 1.0)} if self.random.random() < 0.1 else {}
        if draw < 0.35:
            return self.enqueue("noop", **options)
        if draw < 0.65:
            return self.enqueue("nap", self.random.randint(5, 50), **options)
        if draw < 0.8:
            return self.enqueue("flaky", self.random.randint(1, 2), **options)
        if draw < 0.85:
            return self.enqueue("broken", **options)
        return self.enqueue("batches", self.random.randint(2, 8), self.random.randint(5, 30), **options)

    def rows(self) -> dict[str, JobRow]:
        """All accepted jobs by id; what is not there is lost."""
        found = (self.store.get(id_) for id_ in self.expected)
        return {row.id: row for row in found if row is not None}

    def store_rows(self) -> list[JobRow]:
        """All jobs of the store: also those whose producer was told that nothing is known of their commit."""
        return self.store.find(JobFilter(), limit=100_000)

    def runs(self) -> Counter[str]:
        """How often each job has started."""
        return Counter(line.job_id for line in ledger(self) if line.event == "start")

    def started(self) -> int:
        """How many runs have started."""
        return self.ledger.read_text("ascii").count(" start ")

    def await_started(self, count: int) -> None:
        """Wait until so many runs have started: the fault then hits work in full swing."""
        eventually(lambda: self.started() >= count, deadline_s=DEADLINE_S, what=f"{count} runs started")

    def await_terminal(self, ids: Sequence[str] | None = None, deadline_s: float = DEADLINE_S) -> dict[str, JobRow]:
        """Wait until jobs have ended; all accepted ones by default."""
        waiting = set(self.expected if ids is None else ids)
        ended: dict[str, JobRow] = {}

        def look() -> bool:
            for id_ in list(waiting):
                row = self.store.get(id_)
                if row is not None and row.status in TERMINAL:
                    ended[id_] = row
                    waiting.discard(id_)
            return not waiting

        try:
            eventually(self._reachable(look), deadline_s=deadline_s, what="all accepted jobs ended")
        except AssertionError as error:
            rows = [self.store.get(id_) for id_ in sorted(waiting)]
            shown = "\n".join(_in_words(row) for row in rows[:10])
            raise AssertionError(f"{error}; {len(waiting)} live:\n{shown}\nlogs: {self.folder}") from None
        return ended

    def _all_ended(self) -> bool:
        return all(row.status in TERMINAL for row in self.store_rows())

    def _reachable(self, look: Callable[[], bool]) -> Callable[[], bool]:
        def tried() -> bool:
            try:
                return look()
            except StoreUnavailableError:
                return False

        return tried

    def settle(self) -> None:
        """Wait until every job has ended, stop all processes, and check every promise."""
        self.await_terminal()
        eventually(
            lambda: all(row.status in TERMINAL for row in self.store_rows()),
            deadline_s=DEADLINE_S,
            what="an empty store",
        )
        for process in self._processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        for process in self._processes:
            process.wait()
        audit(self)


def _in_words(row: JobRow | None) -> str:
    if row is None:
        return "a job that is in no table"
    return f"{row.id} {row.actor} {row.status} epoch={row.epoch} attempt={row.attempt} {row.wait_reason} {row.error}"
