"""A scheduler as a process: settings from the environment."""

from __future__ import annotations

import sys

from playbill.observe.log import configure_logging
from playbill.scheduler.main import run_scheduler
from playbill.settings import load

if __name__ == "__main__":
    settings = load()
    configure_logging(settings)
    sys.exit(run_scheduler(settings))
