"""`make demo` does what it says, with no services."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_demo_survives_a_kill_and_moves_each_item_once(tmp_path: Path) -> None:
    # Whatever this shell is set up for must not reach the demo.
    environment = {**os.environ, "PLAYBILL_STORE_URL": "postgresql://nobody@127.0.0.1:1/none", "TMPDIR": str(tmp_path)}

    demo = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "stock" / "demo.py")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Background job workers active:\n  - transfers: 2 workers, 4 at once" in demo.stdout
    assert re.search(r"SIGKILL of worker process \d+ at \d+/100 items of t100", demo.stdout)
    assert "t100 goes on behind item" in demo.stdout
    assert "10/22 items, 45 %" in demo.stdout
    rows = re.findall(r"│ (TR-\S+) +│ (\w+) +│ +(\d+) │ +(\d+) │ +(\d+) │ +\d+ │ +(\d+) │ +[\d.]+ s │", demo.stdout)
    assert [row[:5] for row in rows] == [
        ("TR-202511-0008", "completed", "22", "22", "0"),
        ("TR-202511-0009", "completed", "8", "8", "0"),
        ("TR-202511-0010", "completed", "100", "100", "0"),
    ]
    assert int(rows[2][5]) == 2
    assert list(tmp_path.iterdir()) == []  # it cleans up after itself
