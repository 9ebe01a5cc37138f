"""Private RabbitMQ and PostgreSQL for tests and benchmarks: on free loopback ports, in a folder of their own.

    python tools/services.py start [--debian13]   install the Debian packages if missing, then start what is not running
    python tools/services.py stop                 stop what was started here, and delete its data
    python tools/services.py status
    python tools/services.py env                  shell exports of the URLs

Standard library only: it runs before the environment is made. Root is needed for installing packages (and for
``--debian13``, RabbitMQ 4.0 in a chroot) alone; as root the servers run as the users that their packages made.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools.instances import PostgresInstance, open_folder  # noqa: E402 - after the path: this is also run as a script
from tools.packages import ServiceError, debian13_root, install_missing  # noqa: E402
from tools.rabbit import RabbitInstance  # noqa: E402

__all__ = ["NAMES", "VARIABLES", "PostgresInstance", "RabbitInstance", "ServiceError", "load", "new_rabbit", "urls"]

FOLDER = ROOT / ".services"
NAMES = ("postgres", "rabbitmq", "rabbitmq4")
VARIABLES = {
    "postgres": "PLAYBILL_TEST_POSTGRES_URL",
    "rabbitmq": "PLAYBILL_TEST_RABBITMQ_URL",
    "rabbitmq4": "PLAYBILL_TEST_RABBITMQ4_URL",
}


def load(name: str) -> PostgresInstance | RabbitInstance | None:
    """The instance as it was started, or None."""
    try:
        state = json.loads(_state_file(name).read_text("utf-8"))
        folder = Path(state["folder"])
        if name == "postgres":
            instance: PostgresInstance | RabbitInstance = PostgresInstance(folder)
        else:
            instance = RabbitInstance(folder, root=Path(state["root"]) if state["root"] else None)
        instance.restore(state)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):
        raise ServiceError(f"{_state_file(name)} is of another version: stop those servers, then delete it") from None
    return instance


def new_rabbit(like: str = "rabbitmq", *, extra: str = "") -> RabbitInstance:
    """A further private instance, not started, for a test that breaks it; use it in a ``with``.

    Args:
        like: ``rabbitmq`` or ``rabbitmq4``: which version.
        extra: Further lines of its ``rabbitmq.conf``.
    """
    return RabbitInstance.temporary(root=debian13_root() if like == "rabbitmq4" else None, extra=extra)


def urls() -> dict[str, str]:
    """URL by variable, of what runs."""
    found = {}
    for name in NAMES:
        instance = load(name)
        if instance is not None and instance.running():
            found[VARIABLES[name]] = instance.url
    return found


def _state_file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _home() -> Path:
    """Where the servers live: in the checkout, or elsewhere if their users cannot get in there."""
    pointer = FOLDER / "home"
    if pointer.exists() and (home := Path(pointer.read_text("utf-8"))).is_dir():
        return home
    home = FOLDER
    if os.geteuid() == 0 and not all(path.stat().st_mode & 0o001 for path in (FOLDER, *FOLDER.parents)):
        home = open_folder()
    pointer.write_text(str(home), "utf-8")
    return home


def _new(name: str) -> PostgresInstance | RabbitInstance:
    if name == "postgres":
        return PostgresInstance(_home() / "postgres")
    if name == "rabbitmq":
        return RabbitInstance(_home() / "rabbitmq")
    root = debian13_root()
    return RabbitInstance(root / "srv" / "playbill", root=root)


def _start(name: str) -> None:
    instance = load(name)
    if instance is not None and instance.running():
        print(f"{name}: running on port {instance.port}")
        return
    if instance is not None:  # the machine was restarted: what it left may be half written, its ports taken
        instance.remove()
    instance = _new(name)
    shutil.rmtree(instance.folder, ignore_errors=True)  # of a start that failed: it has another password
    try:
        instance.start()
    except ServiceError:
        instance.stop()
        raise
    path = _state_file(name)
    path.touch(mode=0o600)
    path.write_text(json.dumps(instance.state()), "utf-8")
    print(f"{name}: started on port {instance.port}", flush=True)


def _stop(name: str) -> None:
    instance = load(name)
    if instance is not None:
        instance.remove()
        _state_file(name).unlink()
        print(f"{name}: stopped")


def _status(name: str) -> None:
    instance = load(name)
    print(f"{name}: " + (f"running on port {instance.port}" if instance and instance.running() else "stopped"))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One at a time: two ``make`` in one checkout would start everything twice."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _act(action: str, *, debian13: bool) -> None:
    if action == "start":
        with _alone():
            install_missing()
            for name in ("postgres", "rabbitmq", *(["rabbitmq4"] if debian13 else [])):
                _start(name)
    elif action == "stop":
        with _alone():
            for name in NAMES:
                _stop(name)
            home = _home()
            if home != FOLDER:
                shutil.rmtree(home, ignore_errors=True)
    elif action == "status":
        for name in NAMES:
            _status(name)
    else:
        for variable, url in urls().items():
            print(f"export {variable}={shlex.quote(url)}")


def main() -> int:
    """Entry point; 1 where a service cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("start", "stop", "status", "env"))
    parser.add_argument("--debian13", action="store_true", help="RabbitMQ 4.0 from a Debian 13 root, too")
    arguments = parser.parse_args()
    try:
        _act(arguments.action, debian13=arguments.debian13)
    except (ServiceError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
