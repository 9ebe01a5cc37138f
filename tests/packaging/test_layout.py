"""The checkout's layout: nothing shadows the standard library, and the layers hold."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["actors", "operator"])
def test_top_folders_are_no_packages(folder):
    """An `__init__.py` there makes `import operator` find the folder instead of the standard library's module."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_operator_is_the_standard_librarys_with_this_repositorys_path():
    path = [str(ROOT / "actors"), str(ROOT)]  # as pyproject.toml sets it for pytest
    code = f"import sys; sys.path[:0] = {path!r}; import operator; print(operator.__file__); operator.itemgetter(0)"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert Path(seen.strip()).parent == Path(sysconfig.get_path("stdlib"))


def test_the_import_contracts_hold():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(tool), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
