"""The command line over a real SQLite store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from typer.testing import CliRunner, Result

from playbill import client
from playbill.cli.app import app
from playbill.settings import load
from playbill.store.sql import SqlStore, open_sql_store
from playbill.store.values import Claimed, ErrorRecord, Finish, Handover, NewJob, Outcome, WorkerInfo

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("PLAYBILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PLAYBILL_STORE_URL", f"sqlite:///{tmp_path}/store.db")
    monkeypatch.chdir(tmp_path)
    yield
    client.reset()


@pytest.fixture
def run() -> Run:
    """Run ``playbill`` with these arguments."""

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(app, list(args), prog_name="playbill")

    return invoke


@pytest.fixture
def rows(run: Run) -> Callable[..., Any]:
    """The JSON that a command prints."""

    def invoke(*args: str) -> Any:
        result = run(*args, "--output", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return invoke


class Kit:
    """Short ways to make jobs and bring them to a state."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self._number = 0
        for worker in ("w1", "w2"):
            store.register_worker(WorkerInfo(worker, "host", 4242, ("mail",), ("send",), 8, "1.0"), lease_s=60)

    def add(self, *args: Any, kwargs: dict[str, Any] | None = None, sensitive: Any = None, **options: Any) -> str:
        self._number += 1
        job_id = options.pop("id", f"job-{self._number:04}")
        queue, actor = options.pop("queue", "mail"), options.pop("actor", "send")
        extra = {"sensitive": sensitive} if sensitive else {}
        message = dramatiq.Message(
            queue_name=queue, actor_name=actor, args=args, kwargs=kwargs or {}, options=extra, message_id=job_id
        )
        job = NewJob(id=job_id, queue=queue, actor=actor, message=message.encode(), **options)
        self.store.insert([job], handover=Handover.STORE)
        return job_id

    def start(self, job_id: str) -> Claimed:
        row = self.store.get(job_id)
        assert row is not None
        while True:
            (claimed,) = self.store.claim_next([row.queue], 1, worker="w1")
            if claimed.id == job_id:
                return claimed

    def end(self, job_id: str, outcome: Outcome = Outcome.COMPLETED, **options: Any) -> str:
        claimed = self.start(job_id)
        finish = Finish(claimed.id, claimed.epoch, claimed.token, outcome, claimed.queue, claimed.actor, **options)
        assert self.store.finish([finish], handover=Handover.STORE).applied == {job_id}
        return job_id

    def completed(self, **options: Any) -> str:
        return self.end(self.add(**options), result='{"sent": 1}')

    def failed(self, *args: Any, error: str = "no route", type_: str = "OSError", **options: Any) -> str:
        record = ErrorRecord(type_, error, f"Traceback: {error}")
        return self.end(self.add(*args, **options), Outcome.FAILED, error=record)

    def status(self, job_id: str) -> str:
        row = self.store.get(job_id)
        assert row is not None
        return str(row.status)


@pytest.fixture
def kit(environment: None) -> Iterator[Kit]:
    store = open_sql_store(load())
    yield Kit(store)
    store.close()


def assert_error(result: Result, code: int, *words: str) -> None:
    """One line of error, this exit code, these words."""
    assert result.exit_code == code, (result.exit_code, result.output)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture
def empty_postgres(postgres_url: str) -> Iterator[str]:
    """A PostgreSQL database without tables."""
    import sqlalchemy as sa

    url = sa.make_url(postgres_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    name = f"playbill_cli_{os.getpid()}"
    with engine.connect() as connection:
        connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
