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
    """Refuse modules that do not exist, without importing them (but the packages that they are in).

    Raises:
        InvalidInputError: One cannot be found, or its package fails.
    """
    working_directory_on_path()
    for name in names:
        if not _found(name):
            raise InvalidInputError("MODULE", f"no module named {name!r} from {os.getcwd()}")  # noqa: PTH109


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            return False
        raise InvalidInputError("MODULE", f"cannot import {name}: {type(error).__name__}: {error}") from error
