"""Child processes of ``playbill up``: started together, restarted when they end, stopped together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from playbill.cli.exits import ExitCode
from playbill.errors import ConfigurationError
from playbill.observe.log import get_logger

CHILD_ENDED: Final = "up.child_ended"
CHILD_KILLED: Final = "up.child_killed"

_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 15.0
_STABLE_S: Final = 30.0  #: a child that lived so long owes nothing to earlier ends
_KILL_AFTER_S: Final = 20.0  #: beyond the drain grace; a worker's own supervisor kills after 15 s
_PR_SET_PDEATHSIG: Final = 1

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child to keep running. ``arguments`` are those of ``playbill``; ``last`` ones are stopped after the others."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    last: bool = False


class ChildGroup:
    """The children of one ``playbill up``, all in its process group.

    Args:
        specs: The children.
        grace_s: How long they may drain after a stop, s.
    """

    def __init__(self, specs: Sequence[ChildSpec], *, grace_s: float) -> None:
        self._slots = [_Slot(spec) for spec in specs]
        self._grace_s = grace_s

    def start(self) -> None:
        """Start all."""
        for slot in self._slots:
            slot.start()

    def tend(self) -> None:
        """Restart those that have ended, with a growing pause between two starts of one.

        Raises:
            ConfigurationError: One ended because of a wrong setting or module, which a restart does not heal.
        """
        for slot in self._slots:
            slot.tend()

    def stop(self) -> bool:
        """Stop all with their drain, the ``last`` ones after the others.

        Returns:
            Whether all ended by themselves, without an error.
        """
        workers = [slot for slot in self._slots if not slot.spec.last]
        others = [slot for slot in self._slots if slot.spec.last]
        clean = _stop(workers, self._grace_s + _KILL_AFTER_S)
        return _stop(others, _KILL_AFTER_S) and clean

    def kill(self) -> None:
        """Kill what still runs."""
        for slot in self._slots:
            slot.kill()


class _Slot:
    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._ends = 0
        self._start_at: float | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "playbill.cli.main", *self.spec.arguments]
        environment = {**child_environment(), **self.spec.environment}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)  # noqa: S603 - ourselves
        self._started_at = time.monotonic()
        self._start_at = None

    def tend(self) -> None:
        now = time.monotonic()
        if self._start_at is not None:
            if now >= self._start_at:
                self.start()
            return
        if self.process is None or self.process.poll() is None:
            return
        code = self.process.returncode
        if code == ExitCode.USAGE:
            raise ConfigurationError(f"{self.spec.name} cannot work; see its error above")
        self._ends = 0 if now - self._started_at > _STABLE_S else self._ends
        pause_s = min(_FIRST_BACKOFF_S * 2**self._ends, _MAX_BACKOFF_S)
        self._ends += 1
        self._start_at = now + pause_s
        _log.error(CHILD_ENDED, child=self.spec.name, pid=self.process.pid, code=code, restart_in_s=pause_s)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _stop(slots: Sequence[_Slot], timeout_s: float) -> bool:
    running = [slot for slot in slots if slot.process is not None and slot.process.poll() is None]
    for slot in running:
        assert slot.process is not None
        slot.process.terminate()
    deadline = time.monotonic() + timeout_s
    clean = True
    for slot in running:
        assert slot.process is not None
        try:
            clean = slot.process.wait(max(0.0, deadline - time.monotonic())) == 0 and clean
        except subprocess.TimeoutExpired:
            _log.error(CHILD_KILLED, child=slot.spec.name, pid=slot.process.pid, after_s=timeout_s)
            slot.kill()
            clean = False
    return clean


def child_environment() -> dict[str, str]:
    """The environment of a child: modules are found as they are here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def obey(parent: int) -> None:
    """Leave it to the parent when this process ends, in whatever way the parent itself ends (Linux: by SIGTERM then).

    What a terminal sends to the whole process group is the parent's affair: it stops its children in their order.

    Args:
        parent: Process id of the parent that started this one.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGTERM)
