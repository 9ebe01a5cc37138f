"""All benchmarks, one after another; with names, only those. Their tables are explained in docs/performance.md.

python bench/run.py [drain enqueue latency embedded store_cycle]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALL = ("drain", "enqueue", "latency", "embedded", "store_cycle")


def main() -> int:
    """Run them; 1 if one of them failed."""
    names = sys.argv[1:] or ALL
    failed = [
        name for name in names if subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
