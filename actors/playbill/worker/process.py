"""One worker process, a child of the supervisor: reads its orders from standard input, works until told to stop.

Orders come as one JSON line on standard input, never as arguments: they hold URLs with passwords. What the child has
to say (hello, beats of its life, that it leaves) goes as JSON lines to a pipe of the supervisor's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from playbill import client
from playbill.broker.base import PlaybillBroker
from playbill.broker.port import Intake
from playbill.errors import PlaybillError
from playbill.observe import events
from playbill.observe.log import configure_logging, get_logger
from playbill.settings import Settings
from playbill.worker.modules import load_actors
from playbill.worker.session import WorkerSession

log = get_logger(__name__)

#: Exit codes of a child. Anything else is a crash.
EXIT_DRAINED = 0
EXIT_REFUSED = 3  #: it cannot work at all (a module does not import, the store is not migrated): do not restart

_BEAT_S = 1.0
_STORE_PAUSE_S = 1.0
_SIGNAL_LOOK_S = 0.2
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
        self._over = threading.Event()
        self._session: WorkerSession | None = None
        self._parent = os.getppid()

    def run(self) -> int:
        """Work until a signal, a reason to be replaced, or the supervisor's end; returns the exit code."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor tells us
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        configure_logging(self._settings)
        # In a thread of its own, since a drain may take minutes and so may an outage of the store at the start.
        threading.Thread(target=self._beat, name="playbill-beat", daemon=True).start()
        try:
            session = self._start_when_possible()
        except PlaybillError as error:
            self._tell({"refused": str(error)})
            return EXIT_REFUSED
        if session is None:
            return EXIT_DRAINED
        self._session = session
        # A signal that comes just before a thread goes to sleep does not wake it, and its handler runs when it wakes.
        while not self._stop.wait(_SIGNAL_LOOK_S):
            pass
        clean = session.drain(self._settings.drain_grace_s)
        self._over.set()
        self._tell({"drained": clean})
        if clean:
            client.reset()
        # Threads that did not stop must not hold the process: what they ran is released and fenced off.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_DRAINED)

    def _beat(self) -> None:
        """Tell once a second that this process lives, and leave where it should."""
        while not self._over.wait(_BEAT_S):
            session = self._session
            sick = session.sick() if session is not None else None
            if session is not None and sick is not None:
                session.leave(sick)
            worker = {"worker": session.worker_id} if session is not None else {}
            if not self._tell({"beat": True, "sick": sick, **worker}) or os.getppid() != self._parent:
                self._stop.set()
                return

    def _start_when_possible(self) -> WorkerSession | None:
        """Start; wait for a store that is away. None where it was stopped before."""
        booted = False
        while not self._stop.is_set():
            try:
                runtime = client.configure_command(self._settings)
                load_actors(self._orders["modules"], runtime.broker)
                if not booted:
                    runtime.broker.emit_after("process_boot")
                    booted = True
                return self._start(runtime.broker)
            except PlaybillError as error:
                if not error.retryable:
                    raise
                log.warning(events.STORE_UNAVAILABLE, error=str(error))
                self._stop.wait(_STORE_PAUSE_S)
        return None

    def _start(self, broker: PlaybillBroker) -> WorkerSession:
        # What is loaded by now stays: no garbage collection needs to look at it again.
        gc.collect()
        gc.freeze()
        session = WorkerSession(
            broker,
            queues=self._orders["queues"],
            threads=self._orders["threads"],
            make_intake=_intake_maker(self._settings),
            on_leaving=self._leaving,
        )
        self._tell({"worker": session.worker_id})  # before its first job, which may end this process
        session.start()
        self._tell({"ready": True})
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
