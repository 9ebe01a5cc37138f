"""The parent of worker processes: starts them, replaces those that end, drains them all on SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playbill.errors import PlaybillError
from playbill.observe import events
from playbill.observe.health import HealthServer
from playbill.observe.log import get_logger
from playbill.settings import Settings
from playbill.store import open_store
from playbill.store.port import Store
from playbill.worker.oom import oom_kills
from playbill.worker.process import EXIT_DRAINED, EXIT_REFUSED

log = get_logger(__name__)

_TICK_S = 0.2
_SILENT_S = 30.0  #: a child that says nothing for so long is stuck
_START_S = 120.0  #: time a child has to import its modules
_MAX_BACKOFF_S = 30.0
_STABLE_S = 60.0  #: a child that lived so long owes nothing to earlier crashes
_KILL_AFTER_S = 15.0  #: beyond the drain grace


class Child:
    """One worker process as the supervisor knows it."""

    def __init__(self, orders: Mapping[str, Any]) -> None:
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        self.pipe = read_fd
        self.process = subprocess.Popen(
            [sys.executable, "-m", "playbill.worker.process"],
            stdin=subprocess.PIPE,
            pass_fds=(write_fd,),
            env=_environment(),
        )
        os.close(write_fd)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: seen when it is reaped
            self.process.stdin.write(json.dumps({**orders, "pipe": write_fd}).encode() + b"\n")
            self.process.stdin.close()
        self.started_at = self.heard_at = time.monotonic()
        self.worker_id: str | None = None
        self.ready = False
        self.leaving: str | None = None
        self.leaving_since: float | None = None
        self.refused: str | None = None
        self.sick: str | None = None
        self.replaced = False
        self._rest = b""

    def listen(self) -> None:
        """Read what the child has said."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.pipe, 65_536):
                self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self.heard_at = time.monotonic()
            message = json.loads(line)
            self.worker_id = message.get("worker", self.worker_id)
            self.ready = message.get("ready", self.ready)
            if "leaving" in message and self.leaving is None:
                self.leaving, self.leaving_since = message["leaving"], self.heard_at
            self.refused = message.get("refused", self.refused)
            self.sick = message.get("sick")

    def stuck(self, now: float) -> bool:
        """Whether the child has been silent for too long."""
        return now - self.heard_at > (_SILENT_S if self.ready else _START_S)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.pipe)


class Supervisor:
    """Keeps ``processes`` children at work.

    Args:
        settings: Passed on to the children.
        queues: Weight by queue name.
        modules: Modules that define actors.
        processes: Children.
        threads: Jobs at once in each.
    """

    def __init__(
        self, settings: Settings, *, queues: Mapping[str, int], modules: Sequence[str], processes: int, threads: int
    ) -> None:
        self._settings = settings
        self._orders = {
            "settings": _plain(settings),
            "queues": dict(queues),
            "modules": list(modules),
            "threads": threads,
        }
        self._wanted = processes
        self._children: list[Child] = []
        self._crashes = 0
        self._not_before = 0.0
        self._oom_kills = oom_kills()
        self._store: Store | None = None
        self._exit_code = 0
        self._stopping_since: float | None = None

    def run(self, stop: threading.Event) -> int:
        """Supervise until ``stop`` is set; drains the children then.

        Returns:
            0 after a clean stop, 1 where children had to be killed, 3 where they refused to work.
        """
        health = self._serve_health()
        try:
            while not self._done(stop):
                self._tick(stop)
        finally:
            if health is not None:
                health.stop()
            for child in self._children:  # only after an error of our own
                child.process.kill()
            if self._store is not None:
                self._store.close()
        return self._exit_code

    def _done(self, stop: threading.Event) -> bool:
        return stop.is_set() and not self._children

    def _tick(self, stop: threading.Event) -> None:
        now = time.monotonic()
        if stop.is_set():
            self._stop_children(now)
        elif now >= self._not_before:
            active = sum(1 for child in self._children if child.leaving is None)
            for _ in range(self._wanted - active):
                self._children.append(Child(self._orders))
        self._listen()
        for child in list(self._children):
            if child.process.poll() is not None:
                self._reap(child, stop)
            elif child.stuck(now) or self._overdue(child, now):
                reason = "silent: killed" if child.stuck(now) else "does not end after its drain: killed"
                log.error(events.WORKER_PROCESS_ENDED, pid=child.process.pid, reason=reason)
                child.process.kill()

    def _overdue(self, child: Child, now: float) -> bool:
        """Whether a child that is to be replaced should long have ended."""
        since = child.leaving_since
        return since is not None and now - since > self._settings.drain_grace_s + _KILL_AFTER_S

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for child in self._children:
                selector.register(child.pipe, selectors.EVENT_READ, child)
            # A closed pipe is readable at once: do not spin on it.
            ready = selector.select(_TICK_S)
        for key, _ in ready:
            key.data.listen()
        if ready:
            time.sleep(0.02)

    def _stop_children(self, now: float) -> None:
        if self._stopping_since is None:
            self._stopping_since = now
            for child in self._children:
                child.process.terminate()
        elif now - self._stopping_since > self._settings.drain_grace_s + _KILL_AFTER_S:
            for child in self._children:
                child.process.kill()

    def _reap(self, child: Child, stop: threading.Event) -> None:
        child.listen()
        child.close()
        self._children.remove(child)
        self._forget_metrics(child.process.pid)
        code = child.process.returncode
        if code == EXIT_REFUSED:
            print(f"error: {child.refused}", file=sys.stderr)  # noqa: T201 - the command's one line
            self._exit_code = EXIT_REFUSED
            stop.set()
            return
        if code == EXIT_DRAINED or (stop.is_set() and not child.ready and code == -signal.SIGTERM):
            return  # the second: told to stop before it had begun
        reason = self._reason(code)
        log.error(events.WORKER_PROCESS_ENDED, pid=child.process.pid, worker=child.worker_id, reason=reason)
        self._end_worker(child, reason)
        if stop.is_set():
            self._exit_code = self._exit_code or 1
            return
        self._crashes = 0 if time.monotonic() - child.started_at > _STABLE_S else self._crashes + 1
        if self._crashes > 1:
            self._not_before = time.monotonic() + min(0.5 * 2 ** (self._crashes - 2), _MAX_BACKOFF_S)

    def _reason(self, code: int) -> str:
        kills = oom_kills()
        out_of_memory, self._oom_kills = kills > self._oom_kills, kills
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (", out of memory" if out_of_memory else "")
        return f"exited with code {code}"

    def _end_worker(self, child: Child, reason: str) -> None:
        """Tell the store at once, so that nobody waits for the lease to run out."""
        if child.worker_id is None:
            return
        try:
            if self._store is None:
                self._store = open_store(self._settings)
            self._store.end_worker(child.worker_id, reason=reason)
        except PlaybillError as error:
            log.warning(events.STORE_UNAVAILABLE, error=str(error))  # then the lease ends by itself

    # -- health --------------------------------------------------------------------------------------------------
    def _serve_health(self) -> HealthServer | None:
        if self._settings.http_port is None:
            return None
        server = HealthServer(
            self._settings.http_host,
            self._settings.http_port,
            {"processes": self._unhealthy},
            readiness={"processes": self._unready},
        )
        server.start()
        return server

    def _unhealthy(self) -> str | None:
        now = time.monotonic()
        for child in list(self._children):
            if child.stuck(now):
                return f"process {child.process.pid} is silent"
            if child.sick is not None:
                return f"process {child.process.pid}: {child.sick}"
        return None

    def _unready(self) -> str | None:
        ready = sum(1 for child in list(self._children) if child.ready and child.leaving is None)
        return None if ready >= self._wanted else f"{ready} of {self._wanted} processes are ready"

    def _forget_metrics(self, pid: int) -> None:
        if self._settings.http_port is not None:
            from playbill.observe.metrics import forget_process

            forget_process(pid)


def run_workers(
    settings: Settings,
    *,
    queues: Mapping[str, int],
    modules: Sequence[str],
    processes: int,
    threads: int,
    stop: threading.Event | None = None,
) -> int:
    """Run workers until SIGTERM or SIGINT (or ``stop``), then drain them.

    Args:
        settings: The settings.
        queues: Weight by queue name.
        modules: Modules that define actors.
        processes: Worker processes, >= 1.
        threads: Jobs at once in each, >= 1.
        stop: Ends the run when set; None makes one that signals set.

    Returns:
        The exit code: 0 clean, 1 a process had to be killed, 3 the workers refused to start.
    """
    ending = stop if stop is not None else threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
    with contextlib.ExitStack() as stack:
        if settings.http_port is not None:
            from playbill.observe.metrics import use_directory

            use_directory(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="playbill-metrics-"))))
        supervisor = Supervisor(settings, queues=queues, modules=modules, processes=processes, threads=threads)
        return supervisor.run(ending)


def _plain(settings: Settings) -> dict[str, Any]:
    """Settings with their secrets, for the child's standard input."""
    values = settings.model_dump()
    return {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in values.items()
    }


def _environment() -> dict[str, str]:
    """The child's environment: modules are found as the supervisor finds them."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment
