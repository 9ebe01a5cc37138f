"""The pytest plugin costs nothing where it is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, playbill.testing.plugin\n"
        "heavy = {'dramatiq', 'sqlalchemy', 'pika', 'pydantic', 'alembic', 'structlog'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=_environment())


def test_a_suite_that_uses_the_fixtures_needs_no_set_up_of_its_own(tmp_path: Path) -> None:
    # Given a project with one test
    (tmp_path / "test_mine.py").write_text(
        "import dramatiq, playbill\n"
        "def test_it(playbill_inline):\n"
        "    @dramatiq.actor\n"
        "    def act(): return 3\n"
        "    assert playbill.enqueue(act).result == 3\n"
    )
    # When it is run with the plugin alone
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "playbill.testing.plugin", "test_mine.py"],
        cwd=tmp_path,
        env=_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Then it passes
    assert done.returncode == 0, done.stdout + done.stderr


def _environment() -> dict[str, str]:
    actors = Path(__file__).resolve().parents[3] / "actors"
    return dict(os.environ) | {"PYTHONPATH": str(actors)}
