"""What a supervisor deals with, as a test wants it: time, processes, a store."""

from __future__ import annotations

import json
import os
import signal


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, _seconds):
        """Take no time."""


class Process:
    """Stands in for a child's process: it reads no orders, and says and does what the test wants."""

    made: list[Process]

    def __init__(self, _command, *, pass_fds, **_):
        self.pipe = os.dup(pass_fds[0])
        self.pid = 100 + len(self.made)
        self.returncode = None
        self.signals = []
        read_fd, write_fd = os.pipe()
        self.stdin, self._orders = os.fdopen(write_fd, "wb"), os.fdopen(read_fd, "rb")
        self.made.append(self)

    @property
    def orders(self):
        return json.loads(self._orders.readline())

    def poll(self):
        return self.returncode

    def terminate(self):
        self.signals.append(signal.SIGTERM)

    def kill(self):
        self.signals.append(signal.SIGKILL)

    def say(self, **message):
        os.write(self.pipe, json.dumps(message).encode() + b"\n")

    def say_hello(self):
        self.say(worker=f"w{self.pid}")
        self.say(ready=True)

    def end(self, code):
        self.returncode = code
        self.close()

    def close(self):
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None
        self._orders.close()


class Store:
    def __init__(self):
        self.ended = {}

    def end_worker(self, worker, *, reason):
        self.ended[worker] = reason

    def close(self):
        """Nothing is open."""
