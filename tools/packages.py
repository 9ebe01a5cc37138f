"""Debian packages of the test services: installed where missing, and a Debian 13 root for RabbitMQ 4.0."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "debian13"
RABBITMQ_SERVER = "usr/lib/rabbitmq/bin/rabbitmq-server"
_SUITE = "trixie"
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  #: run level 1: packages start no server of their own
_APT = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=180"]


class ServiceError(Exception):
    """A service cannot be installed or started; the message says what to do."""


def postgres_bin() -> Path:
    """Folder of the newest PostgreSQL's programs."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise ServiceError("PostgreSQL is not installed; run: apt-get install postgresql")
    return versions[-1].parent


def install_missing() -> None:
    """Install what the base services need."""
    present = {
        "rabbitmq-server": (Path("/") / RABBITMQ_SERVER).exists(),
        "postgresql": any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        "pgbouncer": shutil.which("pgbouncer") is not None or Path("/usr/sbin/pgbouncer").exists(),
    }
    missing = [name for name, there in present.items() if not there]
    if missing:
        _install(*missing)


def _install(*packages: str) -> None:
    """The only thing that needs root."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise ServiceError(f"this machine has no apt-get; install by hand: {names}")
    prefix = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise ServiceError(f"packages are missing; run as root: apt-get install {names}")
        prefix = ["sudo"]
    settings = ["env", *(f"{name}={value}" for name, value in _QUIET.items())]  # sudo drops the environment
    print(f"installing {names} ...", flush=True)
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run([*prefix, *settings, *_APT, *command], check=True, stdout=subprocess.DEVNULL)


def debian13_root() -> Path:
    """A Debian 13 root with RabbitMQ 4.0, made once by debootstrap from the machine's own mirror.

    Returns:
        The root's folder, in the checkout's cache.

    Raises:
        ServiceError: It cannot be made; the message says why.
    """
    root, complete = CACHE / "root", CACHE / "complete"
    if complete.exists() and (root / RABBITMQ_SERVER).exists():
        return root
    if os.geteuid() != 0:
        raise ServiceError("RabbitMQ 4.0 runs from a Debian 13 root, whose making (debootstrap) and entering need root")
    if shutil.which("debootstrap") is None:
        _install("debootstrap")
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    print("making a Debian 13 root for RabbitMQ 4.0 ...", flush=True)
    try:
        _make_root(root)
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"{error.cmd[0]} failed; see {CACHE}/log") from None
    complete.touch()
    return root


def _make_root(root: Path) -> None:
    environment = {**os.environ, **_QUIET, "LANG": "C.UTF-8"}
    enter = ["chroot", str(root), *_APT]
    with (CACHE / "log").open("wb") as log:

        def run(*command: str) -> None:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)

        run("debootstrap", "--variant=minbase", _SUITE, str(root), _mirror())
        _share_network_settings(root)
        run(*enter, "update")
        run(*enter, "install", "-y", "--no-install-recommends", "rabbitmq-server")
        run(*enter, "clean")


def _mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    for origin in ("Debian", ""):  # without fetched lists the origin is unknown: then any archive named "debian"
        template = "$(REPO_URI) $(ORIGIN)"
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", template, "Created-By: Packages"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        for line in listed.stdout.splitlines():
            uri, *named = line.split()
            if (named == [origin] or not origin) and uri.rstrip("/").endswith("/debian"):
                return uri
    raise ServiceError("no Debian mirror is named in this machine's apt sources; RabbitMQ 4.0 cannot be fetched")


def _share_network_settings(root: Path) -> None:
    """What apt needs in there to reach the mirror as this machine does: names, certificates, apt's own settings."""
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        source, target = Path("/") / name, root / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    lines = [line for line in dump.splitlines() if line.startswith(("Acquire::http", "Acquire::Check-"))]
    (root / "etc/apt/apt.conf.d/90machine").write_text("\n".join([*lines, ""]), "utf-8")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", "ascii")
    policy.chmod(0o755)
