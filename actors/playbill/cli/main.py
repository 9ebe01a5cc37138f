"""Entry point of ``playbill`` and of ``python -m playbill.cli.main``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from playbill.cli.exits import ExitCode


def run() -> None:
    """Run the command line; leaves the process with one of the documented exit codes."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"error: the command line needs {' and '.join(missing)}: pip install 'playbill[cli]'\n")
        sys.exit(ExitCode.USAGE)
    from playbill.cli.app import app

    app(prog_name="playbill")


if __name__ == "__main__":
    run()
