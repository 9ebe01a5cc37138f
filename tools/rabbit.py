"""A private RabbitMQ server: of the machine's own packages, or of a Debian root entered by chroot."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tools.instances import Instance, descendants, free_port, open_folder, wait_until
from tools.packages import RABBITMQ_SERVER, ServiceError

_MEMORY_LIMIT = "1GB"
_CONFIG = """\
default_user = playbill
default_pass = {password}
listeners.tcp.1 = 127.0.0.1:{port}
vm_memory_high_watermark.absolute = {memory}
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
{extra}
"""
#: Run a command in a Debian root, whose /proc (RabbitMQ watches its memory there) nobody outside sees mounted.
_ENTER = """\
mount -t proc proc "$0/proc"
exec chroot --userspec=rabbitmq:rabbitmq "$0" "$@"
"""


class RabbitInstance(Instance):
    """A private RabbitMQ; its administrator is ``playbill``.

    Args:
        folder: Where it lives; inside ``root`` where one is given.
        root: A Debian root to run it from, None for the machine's own package.
        extra: Further lines of its ``rabbitmq.conf``; ``{folder}`` in them is its folder as it sees it.
    """

    title = "RabbitMQ"
    user = "rabbitmq"
    kept = (*Instance.kept, "name", "dist_port", "epmd_port")

    def __init__(self, folder: Path, *, root: Path | None = None, extra: str = "") -> None:
        super().__init__(folder)
        self.root = root
        self.extra = extra
        self.name = f"playbill-{secrets.token_hex(4)}"
        self.dist_port = 0
        self.epmd_port = 0

    @classmethod
    def temporary(cls, *, root: Path | None = None, extra: str = "") -> RabbitInstance:
        """One in a folder of its own, to be used in a ``with``."""
        if root is None:
            return cls(open_folder(), extra=extra)
        return cls(root / "srv" / secrets.token_hex(4), root=root, extra=extra)

    @property
    def url(self) -> str:
        """amqp:// URL of the administrator."""
        return f"amqp://playbill:{quote(self.password, safe='')}@127.0.0.1:{self.port}/%2F"

    def state(self) -> dict[str, Any]:
        """What another process needs to go on with this instance."""
        return {**super().state(), "root": str(self.root) if self.root else ""}

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        if self.running():
            return
        self.port = self.port or free_port()
        self.dist_port = self.dist_port or free_port()
        self.epmd_port = self.epmd_port or free_port()
        self._write_files()
        self._spawn(self._command("rabbitmq-server"), self._environment())
        self._await(self.answers)

    def stop(self) -> None:
        """Stop in good order, with its name server; the data stay."""
        if self.running():
            self._end(self._beam(), signal.SIGTERM)
        self._end_name_server()

    def kill(self) -> None:
        """Kill -9, like a power cut."""
        if self.running():
            self._end(self._beam(), signal.SIGKILL)

    def restart(self) -> None:
        """Kill -9 and start again on the same ports."""
        self.kill()
        self.start()

    def stop_app(self) -> None:
        """Stop the broker but not its runtime: all connections close."""
        self.ctl("stop_app")

    def start_app(self) -> None:
        """Start the broker again."""
        self.ctl("start_app")
        wait_until(self.answers, "RabbitMQ's answer")

    def set_memory_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm, which blocks publishers."""
        self.ctl("set_vm_memory_high_watermark", "absolute", "1MB" if on else _MEMORY_LIMIT)

    def add_user(self, name: str, password: str, *, vhost: str = "/") -> None:
        """A user with all rights on a virtual host and no tag."""
        self.ctl("add_user", name, password)
        self.ctl("set_permissions", "-p", vhost, name, ".*", ".*", ".*")

    def close_connections(self, reason: str = "closed by a test") -> None:
        """Cut all client connections."""
        self.ctl("close_all_connections", reason)

    def answers(self) -> bool:
        """Whether it greets an AMQP client: the port alone opens too early."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
            client.sendall(b"AMQP\0\0\x09\x01")
            return client.recv(1) == b"\x01"  # a method frame: Connection.Start
        return False

    def ctl(self, *args: str, timeout_s: float = 60.0) -> str:
        """Run ``rabbitmqctl``; returns what it printed."""
        done = subprocess.run(
            self._command("rabbitmqctl", "-q", *args),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._environment(),
            cwd=self.folder,
            **self._identity(),
        )
        if done.returncode:
            raise ServiceError(f"rabbitmqctl {args[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _inside(self) -> Path:
        """The folder as the server sees it."""
        return Path("/") / self.folder.relative_to(self.root) if self.root else self.folder

    def _identity(self) -> dict[str, Any]:
        return {} if self.root else super()._identity()

    def _command(self, program: str, *args: str) -> list[str]:
        """The real scripts: Debian's wrappers on the path insist on the machine's own instance."""
        command = [str(Path("/") / Path(RABBITMQ_SERVER).with_name(program)), *args]
        return ["unshare", "--mount", "sh", "-ec", _ENTER, str(self.root), *command] if self.root else command

    def _environment(self) -> dict[str, str]:
        base = self._inside()
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "HOME": str(base),  # of the cookie
            "RABBITMQ_NODENAME": f"{self.name}@localhost",
            "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
            "RABBITMQ_LOG_BASE": str(base / "log"),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # the machine's own instance is none of our business
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_CRASH_DUMP": "/dev/null",
        }

    def _write_files(self) -> None:
        for path in (self.folder, self.folder / "mnesia", self.folder / "log"):
            path.mkdir(parents=True, exist_ok=True)
        config, plugins = self.folder / "rabbitmq.conf", self.folder / "enabled_plugins"
        config.touch(mode=0o600)
        extra = self.extra.format(folder=self._inside())
        text = _CONFIG.format(password=self.password, port=self.port, memory=_MEMORY_LIMIT, extra=extra)
        config.write_text(text, "ascii")
        plugins.write_text("[].\n", "ascii")
        self._give(self.folder, *self.folder.rglob("*"))

    def _give(self, *paths: Path) -> None:
        if self.root is None:
            super()._give(*paths)
            return
        owner = (self.root / "var/lib/rabbitmq").stat()  # the root has users of its own
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid)

    def _beam(self) -> int:
        """The Erlang VM, which the server's script waits for; a command that talks to it is one, too."""
        family = set(descendants(self.pid))
        return next((pid for pid in self._processes("beam") if pid in family), self.pid)

    def _end_name_server(self) -> None:
        """End the epmd that the server started; it stays behind as a daemon."""
        for pid in self._processes("epmd"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _processes(self, name: str) -> list[int]:
        """Processes of this instance: its name server's port is in their environment."""
        mark, found = f"ERL_EPMD_PORT={self.epmd_port}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                named = entry.name.isdigit() and (entry / "comm").read_text("utf-8").startswith(name)
                if named and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found
