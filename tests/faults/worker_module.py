"""What the workers of the fault suites import: the actors, on the queue that the test names."""

from __future__ import annotations

import os

import dramatiq

from tests.faults import jobs

actors = jobs.declare(os.environ[jobs.QUEUE], dramatiq.get_broker())
