"""What must hold after any fault, checked against the store, the ledger and the batches applied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from playbill.policy.states import TERMINAL, JobStatus
from playbill.store.values import JobRow
from tests.faults import jobs

if TYPE_CHECKING:
    from tests.faults.stage import Stage

#: SQLite keeps whole milliseconds.
_CLOCK_NS = 2_000_000


@dataclass(frozen=True, slots=True)
class Expected:
    """An accepted job."""

    actor: str
    args: tuple[Any, ...]

    @property
    def status(self) -> JobStatus:
        """How it must end."""
        return JobStatus.FAILED if self.actor in ("broken", "killer") else JobStatus.COMPLETED


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger."""

    at_ns: int
    job_id: str
    attempt: int
    event: str


def ledger(stage: Stage) -> list[Line]:
    """The ledger, in the order written."""
    lines = []
    for text in stage.ledger.read_text("ascii").splitlines():
        at_ns, job_id, attempt, event, _pid = text.split(" ")
        lines.append(Line(int(at_ns), job_id, int(attempt), event))
    return lines


def audit(stage: Stage) -> None:
    """Check every promise; all processes must have stopped."""
    rows = stage.rows()
    lines = ledger(stage)
    assert set(rows) == set(stage.expected), f"lost: {set(stage.expected) - set(rows)}"
    for id_, expected in stage.expected.items():
        assert rows[id_].status is expected.status, f"{expected}: {rows[id_]}"
    _check_failures(rows)
    _check_runs(rows, lines)
    _check_ended_once(stage, rows)
    _check_batches(stage, rows)
    _check_nothing_left(stage)


def _check_failures(rows: dict[str, JobRow]) -> None:
    """What failed says why."""
    for row in rows.values():
        if row.status is JobStatus.FAILED:
            assert row.error is not None, row
            expected = "PoisonJob" if row.actor == "killer" else jobs.BrokenJobError.__name__
            assert row.error.type == expected, row


def _check_runs(rows: dict[str, JobRow], lines: list[Line]) -> None:
    """A completed job ran to its end; no run started after its job's end; no run belongs to an unknown job."""
    ended = {line.job_id for line in lines if line.event == "end"}
    for row in rows.values():
        assert row.status is not JobStatus.COMPLETED or row.id in ended, f"completed without running: {row}"
    for line in lines:
        row = rows.get(line.job_id)
        if row is None or line.event != "start":
            continue
        assert row.finished_at is not None
        late_ns = line.at_ns - int(row.finished_at.timestamp() * 1e9)
        assert late_ns <= _CLOCK_NS, f"attempt {line.attempt} started {late_ns / 1e6:.1f} ms after the end of {row}"


def _check_ended_once(stage: Stage, rows: dict[str, JobRow]) -> None:
    """One row in the archive, none among the live ones, and the rollups counted each end once."""
    tables = stage.store.database.tables  # type: ignore[attr-defined, unused-ignore]
    with stage.database.connect() as connection:
        archived = Counter(connection.execute(sa.select(tables.archive.c.id)).scalars())
        live = set(connection.execute(sa.select(tables.jobs.c.id)).scalars())
        counted = connection.execute(
            sa.select(sa.func.sum(tables.rollups.c.completed), sa.func.sum(tables.rollups.c.failed))
        ).one()
    assert {id_: count for id_, count in archived.items() if count != 1} == {}
    assert not live & set(rows), f"live and archived: {live & set(rows)}"
    completed = sum(row.status is JobStatus.COMPLETED for row in stage.store_rows())
    failed = sum(row.status is JobStatus.FAILED for row in stage.store_rows())
    assert (int(counted[0] or 0), int(counted[1] or 0)) == (completed, failed)


def _check_batches(stage: Stage, rows: dict[str, JobRow]) -> None:
    """Each batch of a checkpointing job was applied exactly once."""
    with stage.database.connect() as connection:
        found = connection.execute(sa.text("SELECT job_id, batch FROM applied ORDER BY job_id, batch")).all()
    applied: dict[str, list[int]] = {}
    for job_id, batch in found:
        applied.setdefault(job_id, []).append(batch)
    for row in rows.values():
        if row.actor == "batches":
            wanted = list(range(stage.expected[row.id].args[0]))
            assert applied.get(row.id) == wanted, f"{applied.get(row.id)} applied of {wanted}: {row}"


def _check_nothing_left(stage: Stage) -> None:
    """No message was parked, and what is live (accepted without our knowledge) has a state that people see."""
    assert stage.store.parked() == []
    assert all(row.status in TERMINAL for row in stage.store_rows())
