"""`playbill worker` as a process: its command line as arguments."""

from __future__ import annotations

from playbill.cli.main import run

if __name__ == "__main__":
    run()
