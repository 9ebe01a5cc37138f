"""Tries in a process of its own whether a worker could use modules: an import cannot be undone in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from playbill.cli.children import child_environment, obey
from playbill.errors import ConfigurationError, PlaybillError


def require_actors(modules: Sequence[str]) -> None:
    """Refuse modules that no worker could use.

    Raises:
        ConfigurationError: One does not import, or they define no actors of Playbill's.
    """
    command = [sys.executable, "-m", "playbill.cli.trial", str(os.getpid()), *modules]
    # What the modules print is dropped here: their workers print it again.
    tried = subprocess.run(  # noqa: S603 - ourselves
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        check=False,
    )
    if tried.stdout:
        raise ConfigurationError(tried.stdout.decode())
    if tried.returncode != 0:
        raise ConfigurationError(
            f"importing {', '.join(modules)} ends the process (code {tried.returncode}); import it in Python to see why"
        )


def main() -> None:
    """Entry point of the trial; what it writes to standard output is why the modules are refused."""
    parent, *modules = sys.argv[1:]
    obey(int(parent))
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the answer's way is not the modules' to print on
    problem = _problem(modules)
    if problem is not None:
        os.write(answer, problem.encode())
    os._exit(0)  # threads that the modules have started must not hold the process


def _problem(modules: Sequence[str]) -> str | None:
    from playbill import client
    from playbill.settings import load
    from playbill.worker.modules import load_actors

    try:
        load_actors(modules, client.configure_command(load()).broker)
    except PlaybillError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
