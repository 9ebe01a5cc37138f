"""What the workers of these tests import: the actors of the fault suites and those of this folder."""

from __future__ import annotations

import os

import dramatiq

from tests.faults import jobs as fault_jobs
from tests.integration.worker import jobs

_queue, _broker = os.environ[fault_jobs.QUEUE], dramatiq.get_broker()
actors = fault_jobs.declare(_queue, _broker) + jobs.declare(_queue, _broker)
