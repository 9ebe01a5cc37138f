"""Where modules with actors are looked for."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from playbill.errors import InvalidInputError


def working_directory_on_path() -> None:
    """Modules are found from the working directory, also by the installed ``playbill`` script."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)


def require_modules(names: Sequence[str]) -> None:
    """Refuse modules that do not exist, without importing them.

    Raises:
        InvalidInputError: One cannot be found.
    """
    working_directory_on_path()
    for name in names:
        try:
            found = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise InvalidInputError("MODULE", f"no module named {name!r} from {os.getcwd()}")  # noqa: PTH109
