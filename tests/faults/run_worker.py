"""A supervisor of workers as a process: settings and queue from the environment, processes and threads as arguments."""

from __future__ import annotations

import os
import sys

from playbill.settings import load
from playbill.worker.supervisor import run_workers
from tests.faults import jobs

if __name__ == "__main__":
    sys.exit(
        run_workers(
            load(),
            queues={os.environ[jobs.QUEUE]: 1},
            modules=["tests.faults.worker_module"],
            processes=int(sys.argv[1]),
            threads=int(sys.argv[2]),
        )
    )
