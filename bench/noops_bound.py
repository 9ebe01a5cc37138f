"""The no-op actor for worker processes: they get the queue's name from the environment."""

from __future__ import annotations

import os

import noops

noop = noops.declare(os.environ["BENCH_QUEUE"])
