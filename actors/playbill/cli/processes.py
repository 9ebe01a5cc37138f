"""``playbill up | worker | scheduler | migrate``: the processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from playbill.cli import options
from playbill.cli.exits import EXITS_HELP, ExitCode
from playbill.cli.opened import opened_store
from playbill.cli.output import note, write
from playbill.cli.path import require_modules
from playbill.errors import InvalidInputError

if TYPE_CHECKING:
    from playbill.settings import Settings

#: Internal: set by ``up``, so that its children do not outlive it.
Parent = Annotated[int | None, typer.Option("--parent", hidden=True)]
_MAX_WEIGHT = 1000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, worker, scheduler, migrate):
        app.command(command.__name__, epilog=EXITS_HELP)(command)


def up(
    modules: options.Modules = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="YAML file with JobQueues.", show_default=False)
    ] = None,
) -> None:
    """Run everything here: the scheduler, and the workers of every queue in the file.

    Each queue gets max(1, scaling.minReplicas) workers of workers.processes x workers.threads. They are restarted
    when they end, and drained together on Ctrl-C or SIGTERM. The file's policies are put into the store.
    """
    if file is None:
        raise InvalidInputError("--file", "say which queues to serve: playbill up -f queues.yaml MODULE...")
    from playbill.cli.up import run_up

    settings = _logging()
    raise typer.Exit(run_up(settings, file, modules or []))


def worker(
    modules: options.Modules = None,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME[=WEIGHT]", help="Queue to serve, with its weight (1); repeat for more."),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, max=1024, help="Processes.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, max=1024, help="Jobs at once in each process.")] = 5,
    parent: Parent = None,
) -> None:
    """Run the jobs of one or several queues until SIGTERM or Ctrl-C, then drain."""
    _obey(parent)
    weights = parse_queues(queue or [])
    if not modules:
        raise InvalidInputError("MODULE", "name at least one module with actors")
    require_modules(modules)
    settings = _logging()
    with opened_store():
        pass  # a store that cannot be used is one clear line here, not one for each process
    from playbill.worker.process import EXIT_REFUSED
    from playbill.worker.supervisor import run_workers

    code = run_workers(settings, queues=weights, modules=modules, processes=processes, threads=threads)
    raise typer.Exit(ExitCode.USAGE if code == EXIT_REFUSED else code)


def scheduler(parent: Parent = None) -> None:
    """Run the scheduler until SIGTERM or Ctrl-C. Several may run: one leads, the others stand by."""
    _obey(parent)
    settings = _logging()
    from playbill.scheduler.main import run_scheduler

    raise typer.Exit(run_scheduler(settings, interruptible=parent is None))


def migrate() -> None:
    """Create or upgrade the tables of the store."""
    from playbill.settings import load
    from playbill.store.migrate import migrate as migrate_store

    done = migrate_store(load())
    for revision in done.applied:
        write(revision)
    if done.newer is not None:
        note(f"newer code made the store (revision {done.newer}); this code can use it, so there is nothing to do")
    else:
        note(f"{len(done.applied)} migrations applied" if done.applied else "the store is up to date")


def parse_queues(texts: list[str]) -> dict[str, int]:
    """Queues and their weights, from ``NAME`` or ``NAME=WEIGHT``.

    Raises:
        InvalidInputError: There is none, one is named twice, or a weight is no number from 1 to 1000.
    """
    from playbill.spec.jobqueue import queue_name_problem

    weights: dict[str, int] = {}
    for text in texts:
        name, given, weight = text.partition("=")
        if (problem := queue_name_problem(name)) is not None:
            raise InvalidInputError("--queue", problem)
        if name in weights:
            raise InvalidInputError("--queue", f"{name} is given twice")
        if given and not (weight.isascii() and weight.isdigit() and 1 <= int(weight) <= _MAX_WEIGHT):
            raise InvalidInputError("--queue", f"{weight!r} is no weight; give {name}=1 to {name}={_MAX_WEIGHT}")
        weights[name] = int(weight) if given else 1
    if not weights:
        raise InvalidInputError("--queue", "name at least one queue to serve")
    return weights


def _obey(parent: int | None) -> None:
    if parent is not None:
        from playbill.cli.children import obey

        obey(parent)


def _logging() -> Settings:
    from playbill.observe.log import configure_logging
    from playbill.settings import load

    settings = load()
    configure_logging(settings)
    return settings
