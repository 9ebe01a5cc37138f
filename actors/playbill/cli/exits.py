"""Exit codes of the command line, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from playbill.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    InvalidInputError,
    JobNotFoundError,
    StoreNotMigratedError,
    StoreTooNewError,
    StoreUnavailableError,
)
from playbill.observe.redact import mask_urls


class ExitCode(IntEnum):
    """What a caller can rely on; see docs/reference/cli.md."""

    OK = 0
    FAILED = 1  #: the operation failed, or a job did
    USAGE = 2  #: wrong usage, input or setting; nothing was done
    NOT_FOUND = 3
    UNAVAILABLE = 4  #: store or broker cannot be used now: unreachable, not migrated, or too new
    INTERRUPTED = 130  #: Ctrl-C


EXITS_HELP = (
    "Exit codes: 0 ok, 1 the operation or a job failed, 2 wrong usage, input or setting, 3 not found, "
    "4 store or broker cannot be used, 130 interrupted."
)

_CODES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], ExitCode], ...] = (
    (JobNotFoundError, ExitCode.NOT_FOUND),
    ((StoreUnavailableError, BrokerUnavailableError, StoreNotMigratedError, StoreTooNewError), ExitCode.UNAVAILABLE),
    ((ConfigurationError, InvalidInputError), ExitCode.USAGE),
)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code of an error."""
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return ExitCode.FAILED


def one_line(text: str) -> str:
    """A text on one line, safe for a terminal: no control characters, no passwords of URLs."""
    flat = " ".join(text.split())
    return mask_urls("".join(char if char.isprintable() else "?" for char in flat))
