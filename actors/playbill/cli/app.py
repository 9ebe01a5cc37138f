"""The commands of ``playbill`` put together, with the options that hold for all of them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from playbill import __version__
from playbill.cli import enqueue, jobs, parked, processes, queues, watch, workers
from playbill.cli.boundary import BoundaryGroup, Invocation
from playbill.cli.exits import EXITS_HELP

app = typer.Typer(
    cls=BoundaryGroup,
    help="Background jobs: run workers, enqueue, look after jobs.",
    epilog=EXITS_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"playbill {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="TOML file with settings, as PLAYBILL_CONFIG."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Background jobs: run workers, enqueue, look after jobs."""
    invocation = context.find_object(Invocation)
    if invocation is not None:
        invocation.debug = debug
    if config is not None:
        from playbill.settings import CONFIG_VARIABLE

        # By the environment, so that it holds for child processes too.
        before = os.environ.get(CONFIG_VARIABLE)
        os.environ[CONFIG_VARIABLE] = config
        context.call_on_close(lambda: _restore(CONFIG_VARIABLE, before))


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _group(name: str, group: typer.Typer, text: str) -> None:
    app.add_typer(group, name=name, help=text, no_args_is_help=True, epilog=EXITS_HELP)


processes.register(app)
enqueue.register(app)
watch.register(jobs.group)
_group("jobs", jobs.group, "Look after jobs.")
_group("queues", queues.group, "Look at queues.")
_group("workers", workers.group, "Look at workers.")
_group("parked", parked.group, "Messages that could not become jobs.")
