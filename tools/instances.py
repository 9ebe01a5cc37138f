"""Private RabbitMQ and PostgreSQL servers: each with a folder, ports and a process of its own.

Tests that break a server make one for themselves::

    with RabbitInstance.temporary() as rabbit:
        rabbit.kill()
        rabbit.start()
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from tools.packages import ServiceError, postgres_bin

READY_S = 90.0
_TEMPORARY = "playbill-"
#: Below them are well-known services, above them (from 32768 on Linux) the ports of outgoing connections.
_PORTS_BEGIN, _PORTS_END = 15_000, 32_000


def free_port() -> int:
    """A loopback port that is free now, and that the system gives to no connection that goes out.

    One of those it might give away before the server takes it, or while the server is down for a while; a client that
    then comes back may even be connected to itself.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = secrets.randbelow(_PORTS_END - _PORTS_BEGIN) + _PORTS_BEGIN
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = READY_S) -> None:
    """Wait for a condition; ServiceError where it does not come."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise ServiceError(f"{what} did not come within {deadline_s:g} s")
        time.sleep(0.05)


def open_folder() -> Path:
    """A new folder that the servers' users can enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    folder.chmod(0o755)
    return folder


def started_at(pid: int) -> int:
    """Start time of a living process, in clock ticks since boot; 0 where there is none (a zombie is none).

    With the pid it names a process for good: pids are used again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text("ascii").split()]
    return found


class Instance:
    """What the servers have in common. ``state`` and ``restore`` let another process go on with one."""

    title: ClassVar[str]
    user: ClassVar[str]  #: who runs it where we are root
    kept: ClassVar[tuple[str, ...]] = ("password", "port", "pid", "ticks")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = secrets.token_urlsafe(18)
        self.port = 0
        self.pid = 0
        self.ticks = 0
        self._process: subprocess.Popen[bytes] | None = None

    def state(self) -> dict[str, Any]:
        """What another process needs to go on with this instance."""
        return {"folder": str(self.folder), **{name: getattr(self, name) for name in self.kept}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with an instance that another process started."""
        for name in self.kept:
            setattr(self, name, state[name])

    def running(self) -> bool:
        """Whether the server's process lives."""
        if self._process is not None:
            self._process.poll()
        return self.pid != 0 and started_at(self.pid) == self.ticks

    def start(self) -> None:
        """Start and wait until it answers; does nothing where it runs."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop in good order; the data stay."""
        raise NotImplementedError

    def remove(self) -> None:
        """Stop and delete the data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _identity(self) -> dict[str, Any]:
        """How to start a process as the package's user."""
        if os.geteuid() != 0:
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _give(self, *paths: Path) -> None:
        if os.geteuid() == 0:
            for path in paths:
                shutil.chown(path, self.user, self.user)

    def _spawn(self, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
                **self._identity(),
            )
        self.pid = self._process.pid
        self.ticks = started_at(self.pid)

    def _await(self, ready: Callable[[], bool]) -> None:
        def checked() -> bool:
            if not self.running():
                output = (self.folder / "output.log").read_text(encoding="utf-8", errors="replace")
                raise ServiceError(f"{self.title} ended while it started ({self.folder}): {output[-2000:]}")
            return ready()

        wait_until(checked, f"{self.title}'s first answer")

    def _end(self, pid: int, number: signal.Signals, deadline_s: float = 60.0) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_until(lambda: not self.running(), f"the end of {self.title}", deadline_s)
        if self._process is not None:
            self._process.wait(deadline_s)  # it has ended, and is to be reaped
        self._process, self.pid, self.ticks = None, 0, 0


class PostgresInstance(Instance):
    """A private PostgreSQL; its superuser is ``playbill``."""

    title = "PostgreSQL"
    user = "postgres"

    @classmethod
    def temporary(cls) -> PostgresInstance:
        """One in a folder of its own, to be used in a ``with``."""
        return cls(open_folder())

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the superuser."""
        return f"postgresql://playbill:{quote(self.password, safe='')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Initialise at first, then start and wait until it answers."""
        if self.running():
            return
        programs = postgres_bin()
        self._initialise(programs)
        self.port = self.port or free_port()
        sockets = str(self.folder) if len(str(self.folder)) < 80 else ""  # a socket's path may have 107 bytes
        command = [f"{programs}/postgres", "-D", f"{self.folder}/data", "-p", str(self.port), "-h", "127.0.0.1"]
        command += ["-k", sockets, "-c", "max_connections=200", "-c", "shared_buffers=256MB"]
        self._spawn(command, self._environment())
        check = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        self._await(lambda: subprocess.run(check, check=False, env=self._environment()).returncode == 0)

    def stop(self, mode: str = "fast") -> None:
        """Stop: ``fast`` in good order, ``immediate`` like a crash, from which the next start recovers."""
        number = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        if self.running():
            self._end(self.pid, number)

    def kill(self) -> None:
        """Kill -9 the server and what it started."""
        if self.running():
            family = descendants(self.pid)
            for child in family[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._end(self.pid, signal.SIGKILL)
            wait_until(lambda: not any(map(started_at, family)), "the end of PostgreSQL's processes")

    def restart(self, mode: str = "immediate") -> None:
        """Stop and start again on the same port."""
        self.stop(mode)
        self.start()

    def _initialise(self, programs: Path) -> None:
        if (self.folder / "data/PG_VERSION").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password, encoding="ascii")
        self._give(self.folder, secret)
        command = [f"{programs}/initdb", "-D", f"{self.folder}/data", "-U", "playbill", "-A", "scram-sha-256"]
        command += ["-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={secret}"]
        with (self.folder / "output.log").open("ab") as log:
            identity = self._identity()
            done = subprocess.run(
                command, check=False, stdout=log, stderr=log, cwd=self.folder, env=self._environment(), **identity
            )
        secret.unlink()
        if done.returncode:
            raise ServiceError(f"initdb failed; see {self.folder}/output.log")

    @staticmethod
    def _environment() -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
