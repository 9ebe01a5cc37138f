"""One worker process, a child of the supervisor: reads its orders from standard input, works until told to stop.

Orders come as one JSON line on standard input, never as arguments: they hold URLs with passwords. What the child has
to say (hello, heartbeats, that it leaves) goes as JSON lines to a pipe of the supervisor's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from playbill import client
from playbill.broker.port import Intake
from playbill.errors import PlaybillError
from playbill.observe.log import configure_logging, get_logger
from playbill.settings import Settings
from playbill.worker.modules import load_actors
from playbill.worker.session import WorkerSession

log = get_logger(__name__)

#: Exit codes of a child. Anything else is a crash.
EXIT_DRAINED = 0
EXIT_REFUSED = 3  #: it cannot work at all (a module does not import, the store is not migrated): do not restart

_BEAT_S = 1.0
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Entry point of ``python -m playbill.worker.process``."""
    orders = json.loads(sys.stdin.readline())
    if hasattr(os, "getppid") and sys.platform == "linux":
        # A supervisor that is killed outright takes its children along, through their drain.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    sys.exit(WorkerProcess(orders).run())


class WorkerProcess:
    """The child's life.

    Args:
        orders: settings, queues, modules, threads, and the pipe's file descriptor.
    """

    def __init__(self, orders: Mapping[str, Any]) -> None:
        self._orders = orders
        self._settings = Settings(**orders["settings"])
        self._pipe = orders["pipe"]
        self._stop = threading.Event()
        self._session: WorkerSession | None = None
        self._parent = os.getppid()

    def run(self) -> int:
        """Work until a signal, a reason to be replaced, or the supervisor's end; returns the exit code."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor tells us
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        configure_logging(self._settings)
        try:
            self._session = session = self._start(self._orders["modules"])
        except PlaybillError as error:
            self._tell({"refused": str(error)})
            return EXIT_REFUSED
        self._tell({"worker": session.worker_id, "actors": sorted(session.broker.actors)})
        while not self._stop.wait(_BEAT_S):
            sick = session.sick()
            if sick is not None:
                session.leave(sick)
            if not self._tell({"beat": True, "sick": sick, "running": len(session.running())}):
                break
            if os.getppid() != self._parent:
                break
        clean = session.drain(self._settings.drain_grace_s)
        self._tell({"drained": clean})
        if clean:
            client.reset()
        # Threads that did not stop must not hold the process: what they ran is released and fenced off.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_DRAINED)

    def _start(self, modules: Sequence[str]) -> WorkerSession:
        runtime = client.configure(self._settings)
        load_actors(modules, runtime.broker)
        runtime.broker.emit_after("process_boot")
        # What is loaded by now stays: no garbage collection needs to look at it again.
        gc.collect()
        gc.freeze()
        session = WorkerSession(
            runtime.broker,
            queues=self._orders["queues"],
            threads=self._orders["threads"],
            make_intake=_intake_maker(self._settings),
            on_leaving=self._leaving,
        )
        session.start()
        return session

    def _leaving(self, reason: str) -> None:
        self._tell({"leaving": reason})
        self._stop.set()

    def _tell(self, message: Mapping[str, Any]) -> bool:
        try:
            os.write(self._pipe, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return False
        return True


def _intake_maker(settings: Settings) -> Any:
    if settings.broker_url is None:
        return None
    url = settings.broker_url.get_secret_value()

    def make() -> Intake:
        from playbill.broker.rabbitmq.intake import RabbitIntake

        return RabbitIntake(url)

    return make


if __name__ == "__main__":
    main()
