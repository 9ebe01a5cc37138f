"""A script that ends only where an interrupt leaves nothing behind in its interpreter.

Python 3.11 goes round in circles in a traced function while it believes that an exception is still to be raised.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from playbill.worker.interrupts import CancelInterrupt, InterruptGuard


def spin(started: threading.Event) -> None:
    started.set()
    while True:
        time.sleep(0.001)


def run(guard: InterruptGuard, started: threading.Event) -> None:
    try:
        guard.run(spin, (started,), {})
    except CancelInterrupt:
        return


def trace(*_: Any) -> Any:
    return trace


def traced() -> int:
    return sum(number for number in range(10))


if __name__ == "__main__":
    guard, started = InterruptGuard(), threading.Event()
    thread = threading.Thread(target=run, args=(guard, started))
    thread.start()
    started.wait(10)
    guard.interrupt(CancelInterrupt)
    thread.join(10)
    sys.settrace(trace)
    traced()
    sys.settrace(None)
