"""Wheel and sdist: what is in them, and that they work in an empty environment without extras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from playbill.settings import ENV_PREFIX
from tests.packaging.conftest import run

PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("psycopg", "typer", "rich", "opentelemetry", "pytest")

#: Runs in the empty environment: first the bare import, then every public name.
PROBE = """
import json, sys
import playbill
light = sorted({name.partition(".")[0] for name in sys.modules})
for name in playbill.__all__:
    getattr(playbill, name)
import importlib.metadata as metadata, importlib.resources as resources, operator
print(json.dumps({
    "light": light,
    "all": sorted({name.partition(".")[0] for name in sys.modules}),
    "typed": resources.files("playbill").joinpath("py.typed").is_file(),
    "file": playbill.__file__,
    "version": [playbill.__version__, metadata.version("playbill")],
    "operator": operator.__file__,
}))
"""


def names_in(path):
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    with tarfile.open(path) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def python_of(uv, version):
    """A Python of this version on the machine, or None. One that a version manager only pretends to have is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        said(uv, "python", "find", "--no-python-downloads", version),
        shutil.which(f"python{version}"),
        *(str(found) for found in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))),
    ]
    asks = "import sys; print('%d.%d' % sys.version_info[:2])"
    return next((found for found in candidates if found and said(found, "-c", asks) == version), None)


def said(*command):
    """What a command that may fail answers."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def installed(uv, python, package, where):
    """Install into an empty environment, with nothing of this one visible."""
    env = {key: value for key, value in os.environ.items() if not key.startswith((ENV_PREFIX, "PYTHON", "VIRTUAL"))}
    run(uv, "venv", "--quiet", "--python", python, where, env=env)
    run(uv, "pip", "install", "--quiet", "--python", where / "bin" / "python", package, env=env)
    return json.loads(run(where / "bin" / "python", "-W", "error", "-c", PROBE, cwd=where, env=env))


def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    names = names_in(distributions["wheel"])
    assert {name.split("/")[0] for name in names} == {"playbill", "playbill-0.1.0.dist-info"}
    assert "playbill/py.typed" in names
    assert "playbill/store/migrations/env.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_no_tests_and_no_leftovers_are_shipped(distributions, kind):
    for name in names_in(distributions[kind]):
        assert not name.startswith(("tests/", "bench/", "tools/")), name
        assert not name.endswith((".pyc", ".db", ".yaml.swp")), name
        assert "test_" not in name, name


def test_the_sdist_holds_licence_readme_and_changelog(distributions):
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= set(names_in(distributions["sdist"]))


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_in_an_empty_environment_without_extras(uv, distributions, kind, tmp_path):
    check(installed(uv, sys.executable, distributions[kind], tmp_path / "env"), tmp_path)


@pytest.mark.parametrize("version", [v for v in PYTHONS if not sys.version.startswith(v)])
def test_it_works_on_the_other_pythons(uv, distributions, version, tmp_path):
    python = python_of(uv, version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    check(installed(uv, python, distributions["wheel"], tmp_path / "env"), tmp_path)


def check(seen, where):
    assert seen["file"].startswith(str(where))
    assert seen["typed"]
    assert seen["version"][0] == seen["version"][1]
    assert "playbill" not in seen["operator"]
    assert not set(EXTRAS) & set(seen["all"])
    assert not {"dramatiq", "pika", "sqlalchemy", "pydantic", "alembic"} & set(seen["light"]), "the import is not light"
