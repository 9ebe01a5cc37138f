"""The edge of the command line: every error becomes one line on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from playbill.cli.exits import ExitCode, exit_code, one_line
from playbill.errors import PlaybillError
from playbill.observe.redact import mask_urls

#: Options of ``playbill`` itself that may also stand behind the command, as people type them: name -> takes a value.
_GLOBAL = {"--debug": False, "--config": True}


@dataclass(slots=True)
class Invocation:
    """What holds for one run of the command line."""

    debug: bool = False


class BoundaryGroup(TyperGroup):
    """The root command. All of ``playbill`` runs inside its ``main``, tests included."""

    def main(  # noqa: D102 - see the class
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - errors are always handled here
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        invocation = Invocation()
        code = _guarded(
            invocation,
            lambda: super(BoundaryGroup, self).main(
                _globals_first(sys.argv[1:] if args is None else args),
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=invocation,
                **extra,
            ),
        )
        sys.exit(code)


def _guarded(invocation: Invocation, command: Any) -> int:
    try:
        with broken_pipe_is_fine():
            answer = command()
        return int(answer) if isinstance(answer, int) else ExitCode.OK
    except typer.Exit as leaving:
        return leaving.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        if error.exit_code == ExitCode.USAGE and type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
        else:
            report(_usage(error))
        return error.exit_code
    except PlaybillError as error:
        report(str(error), error if invocation.debug else None)
        return exit_code(error)
    except Exception as error:  # noqa: BLE001 - the outermost edge: whatever it is, it becomes one line
        hint = "" if invocation.debug else " (--debug shows the trace)"
        report(f"unexpected {type(error).__name__}: {error}{hint}", error if invocation.debug else None)
        return ExitCode.FAILED


def report(message: str, error: BaseException | None = None) -> None:
    """Write one line of error, and the trace of ``error`` before it if one is given."""
    if error is not None:
        sys.stderr.write(mask_urls("".join(traceback.format_exception(error))))
    sys.stderr.write(f"error: {one_line(message)}\n")
    sys.stderr.flush()


@contextmanager
def broken_pipe_is_fine() -> Iterator[None]:
    """A reader that has seen enough (``| head``) is no error: end quietly."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # Typer and Rich answer a broken pipe with exit code 1 of their own.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # What is still buffered must not fail once more when the interpreter flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise typer.Exit(ExitCode.OK) from None


def _usage(error: typer.TyperException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context is not None else message


def _globals_first(args: Sequence[str]) -> list[str]:
    """Move the options of ``playbill`` itself in front of the command."""
    first: list[str] = []
    rest: list[str] = []
    left = iter(args)
    for arg in left:
        name = arg.partition("=")[0]
        if arg == "--":
            rest += [arg, *left]
        elif name not in _GLOBAL:
            rest.append(arg)
        elif _GLOBAL[name] and "=" not in arg:
            first += [arg, *([value] if (value := next(left, None)) is not None else [])]
        else:
            first.append(arg)
    return first + rest
