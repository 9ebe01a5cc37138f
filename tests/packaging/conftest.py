"""The built distributions, and the tools to install them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, cwd=None, env=None):
    """Run to the end; fail with everything it said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def uv():
    """The uv of the Makefile, or one on the path."""
    named = os.environ.get("PLAYBILL_TEST_UV")
    for found in (named, shutil.which("uv"), *sorted(map(str, ROOT.glob(".cache/uv-*/bin/uv")))):
        if found and Path(found).is_file():
            return found
    pytest.skip("no uv: run `make sync`, which installs it into .cache")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of what the distributions are built from, so that a build never sees a half-written file twice."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy2(ROOT / name, copy)
    for name in ("actors", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="session")
def distributions(uv, checkout):
    """Wheel and sdist by kind. The wheel is built from the sdist, as an index's users would."""
    run(uv, "build", "--quiet", "--out-dir", checkout / "dist", cwd=checkout)
    (wheel,) = (checkout / "dist").glob("*.whl")
    (sdist,) = (checkout / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}
