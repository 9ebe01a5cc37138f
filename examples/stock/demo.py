"""Three transfers, one worker killed in the middle, every item moved exactly once: ``make demo``. Needs no services."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "actors"), str(ROOT)]

NUMBERS = {"t22": ("TR-202511-0008", 22), "t8": ("TR-202511-0009", 8), "t100": ("TR-202511-0010", 100)}
VICTIM = "t100"
KILL_FROM = 40  #: items done after which its worker is killed
DEADLINE_S = 120.0
UP_DEADLINE_S = 130.0
FRAMED_WIDTH = 92  #: columns that the summary needs with frames


@dataclass(slots=True)
class Demo:
    """What the demo has learnt so far."""

    jobs: dict[str, Any] = field(default_factory=dict)
    killed_pid: int | None = None
    killed_at: int = 0
    resumed: bool = False


def main() -> int:
    """Run the demo.

    Returns:
        0 if every item was moved exactly once in spite of the kill.
    """
    with tempfile.TemporaryDirectory(prefix="playbill-demo-") as folder:
        url = f"sqlite:///{folder}/stock.db"
        for name in [name for name in os.environ if name.startswith("PLAYBILL_")]:
            del os.environ[name]  # the demo runs on nothing, whatever this shell is set up for
        os.environ |= {"PLAYBILL_STORE_URL": url, "STOCK_DATABASE_URL": url, "PLAYBILL_LOG_FORMAT": "json"}
        # A scheduler that has just begun waits a whole lease before it rescues: people should not have to.
        os.environ |= {"PLAYBILL_LEASE_S": "6", "PLAYBILL_HEARTBEAT_S": "1"}
        os.chdir(folder)  # no playbill.toml of the working directory either
        import playbill

        playbill.configure()
        fill_stock()
        log = Path(folder) / "up.log"
        try:
            with playbill_up(log):
                demo = run()
            return 0 if summary(demo) else 1
        except TimeoutError as error:
            print(f"error: {error}\n--- the last lines of playbill up:", file=sys.stderr)
            print("\n".join(log.read_text().splitlines()[-20:]), file=sys.stderr)
            return 1
        finally:
            from playbill import client

            client.reset()


def fill_stock() -> None:
    """Make the tables and the transfers with their items, all in the north warehouse."""
    from examples.stock.models import Base, Item, Transfer, engine
    from sqlalchemy.orm import Session

    Base.metadata.create_all(engine())
    with Session(engine()) as db, db.begin():
        for transfer_id, (number, count) in NUMBERS.items():
            db.add(Transfer(id=transfer_id, number=number, source="north", target="south"))
            db.flush()
            db.add_all(
                Item(transfer_id=transfer_id, position=n, sku=f"SKU-{n:04}", warehouse="north")
                for n in range(1, count + 1)
            )


@contextlib.contextmanager
def playbill_up(log: Path) -> Iterator[None]:
    """``playbill up`` as a child process, its output in a file; stopped at the end as Ctrl-C would."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "actors"), str(ROOT)])}
    command = [sys.executable, "-m", "playbill.cli.main", "up", "-f", str(HERE / "queues.yaml")]
    print("$ playbill up -f examples/stock/queues.yaml", flush=True)
    with log.open("wb") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for_workers(child, log)
        yield
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for_workers(child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_DEADLINE_S
    active = "Background job workers active:"
    while time.monotonic() < deadline and child.poll() is None:
        _, found, rest = log.read_text().partition(active)
        lines = [line for line in rest.splitlines() if line.startswith("  - ")]
        if found and lines:
            print("\n".join([active, *lines]), flush=True)
            return
        time.sleep(0.1)
    raise TimeoutError("playbill up did not start its workers")


def run() -> Demo:
    """Enqueue the transfers, watch them, kill a worker on the way."""
    from examples.stock.actors import send_transfer

    import playbill
    from playbill.cli.watch import progress_view
    from playbill.client import runtime
    from playbill.store.values import JobFilter

    demo = Demo()
    for transfer_id in NUMBERS:
        demo.jobs[transfer_id] = playbill.enqueue(send_transfer.message(transfer_id, notes="from the demo"))
    titles = {job.id: f"{NUMBERS[transfer_id][0]} ({transfer_id})" for transfer_id, job in demo.jobs.items()}
    order = [job.id for job in demo.jobs.values()]
    store = runtime().store
    deadline = time.monotonic() + DEADLINE_S
    with progress_view(titles) as view:
        while time.monotonic() < deadline:
            rows = {row.id: row for row in store.find(JobFilter(ids=tuple(order)), limit=len(order))}
            view.update([rows[job_id] for job_id in order])
            disturb(demo, rows[demo.jobs[VICTIM].id], store, view)
            if all(row.status.is_terminal for row in rows.values()):
                return demo
            time.sleep(0.1)
    raise TimeoutError(f"the transfers did not end within {DEADLINE_S:g} s")


def disturb(demo: Demo, row: Any, store: Any, view: Any) -> None:
    """Kill the worker of the big transfer in mid-way, and tell when another one takes over."""
    if demo.killed_pid is None:
        worker = next((each for each in store.workers() if row.id in each.running and row.worker == each.id), None)
        if row.done >= KILL_FROM and worker is not None:
            os.kill(worker.pid, signal.SIGKILL)
            demo.killed_pid, demo.killed_at = worker.pid, row.done
            view.remark(f"** SIGKILL of worker process {worker.pid} at {row.done}/{row.total} items of {VICTIM}")
    elif not demo.resumed and row.done > demo.killed_at:
        demo.resumed = True
        view.remark(f"** {VICTIM} goes on behind item {demo.killed_at}, in another process")


def summary(demo: Demo) -> bool:
    """Print what happened.

    Returns:
        Whether everything is as promised.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Stock transfers", title_justify="left")
    for title in ("transfer", "status"):
        table.add_column(title, no_wrap=True)
    for title in ("items", "moved", "duplicates", "attempts", "workers", "duration"):
        table.add_column(title, justify="right", no_wrap=True)
    good = demo.killed_pid is not None and demo.resumed
    for transfer_id, job in demo.jobs.items():
        row = job.refresh().row
        number, count = NUMBERS[transfer_id]
        ledger = count_movements(transfer_id)
        right = row.status == "completed" and ledger.exact(count)
        good = good and right and job.result == {"transferNumber": number, "itemsProcessed": count}
        good = good and (transfer_id != VICTIM or ledger.processes > 1)
        cells = (count, ledger.moved, ledger.duplicates, row.attempt, ledger.processes)
        seconds = (row.finished_at - row.created_at).total_seconds() if row.finished_at else 0.0
        table.add_row(number, str(row.status), *map(str, cells), f"{seconds:.1f} s")
    console = Console(width=None if sys.stdout.isatty() else 100)
    if console.width < FRAMED_WIDTH:
        table.box, table.pad_edge = None, False  # cut nothing where frames would take the room
    console.print(table)
    if good:
        print(f"Worker {demo.killed_pid} was killed in mid-transfer; every item was moved exactly once.")
    else:
        print("error: not every item was moved exactly once after a kill", file=sys.stderr)
    return good


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger says of one transfer."""

    moved: int  #: different items moved
    duplicates: int  #: movements too many
    arrived: int  #: items that are in the target warehouse
    processes: int  #: worker processes that moved some

    def exact(self, count: int) -> bool:
        """Whether ``count`` items were moved, each once."""
        return (self.moved, self.duplicates, self.arrived) == (count, 0, count)


def count_movements(transfer_id: str) -> Ledger:
    """Read the ledger."""
    from examples.stock.models import Item, Movement, engine
    from sqlalchemy import func, select
    from sqlalchemy.orm import Session

    with Session(engine()) as db:
        of_transfer = Movement.transfer_id == transfer_id
        movements = db.scalar(select(func.count()).where(of_transfer)) or 0
        moved = db.scalar(select(func.count(Movement.position.distinct())).where(of_transfer)) or 0
        processes = db.scalar(select(func.count(Movement.pid.distinct())).where(of_transfer)) or 0
        arrived = db.scalar(select(func.count()).where(Item.transfer_id == transfer_id, Item.warehouse == "south"))
    return Ledger(moved=moved, duplicates=movements - moved, arrived=arrived or 0, processes=processes)


if __name__ == "__main__":
    sys.exit(main())
