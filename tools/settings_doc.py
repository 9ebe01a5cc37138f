"""Write docs/reference/settings.md from the Settings model, or check that it is up to date (``--check``)."""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from playbill.settings import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE, ENV_PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"

HEAD = f"""\
# Settings

<!-- Written by tools/settings_doc.py from actors/playbill/settings.py: change it there, then run the script. -->

Read once, by `playbill.configure()` or the command line. The first source that states a setting wins:

1. arguments of `playbill.configure(...)`;
2. environment variables `{ENV_PREFIX}<NAME>`;
3. the TOML file named by `{CONFIG_VARIABLE}`, or `{DEFAULT_CONFIG_FILE}` in the working directory if it exists
   (keys are the names below, in lower case);
4. the defaults below.

An unknown name is an error in each of them.

Workers and commands (`playbill worker`, `up`, `enqueue`) read 2 to 4, and those settings hold: an actor module may call
`playbill.configure(...)` itself, but there it only adds its `middleware=`, one of each class. Settings that differ are
not taken over; the log names them (`configure.settings_ignored`). So put into the environment or the file what workers
must know too.

What a queue or an actor may set for itself (attempts, backoff, time limit, age, retention) is not here but in the
[JobQueue](jobqueue.md) and in the [actor's options](dramatiq-options.md).

| Setting | Variable | Type | Default | Meaning |
|---|---|---|---|---|
"""


def render() -> str:
    """The page."""
    return HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    cells = (
        f"`{name}`",
        f"`{ENV_PREFIX}{name.upper()}`",
        _type(field.annotation, field.metadata),
        _default(field.default),
        (field.description or "").replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |\n"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return f"`{plain}`"


def _type(annotation: Any, metadata: list[Any]) -> str:
    options = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join("none" if option is type(None) else _type(option, metadata) for option in options)
    if annotation is SecretStr:
        return "URL, secret"
    return " ".join([{int: "whole number", float: "number", str: "text"}.get(annotation, "value"), *_bounds(metadata)])


def _bounds(metadata: list[Any]) -> list[str]:
    signs = (("gt", "&gt;"), ("ge", "&ge;"), ("lt", "&lt;"), ("le", "&le;"))
    return [
        f"{sign} {getattr(limit, name):g}"
        for limit in metadata
        for name, sign in signs
        if getattr(limit, name, None) is not None
    ]


def main() -> int:
    """Write or check the page; 1 if the check finds it out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is out of date")
    if not parser.parse_args().check:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print(f"{PAGE.name} is out of date: run `python tools/settings_doc.py`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
