"""What commands print: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from playbill.cli.exits import one_line

Row = Mapping[str, Any]


class Format(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def plain(value: Any) -> Any:
    """A value as JSON and YAML show it: times as ISO 8601 in UTC, enums as text, and so NaN and infinities."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # as Python's encoders write it, which is no JSON unless quoted
    return value if value is None or isinstance(value, (int, float)) or type(value) is str else str(value)


def print_rows(rows: Sequence[Row], columns: Sequence[str], output: Format) -> None:
    """Print a list.

    Args:
        rows: Flat objects.
        columns: Keys that a table shows; JSON and YAML show all.
        output: The format. JSON and YAML are one array.
    """
    if output is Format.TABLE:
        _print_table(rows, columns)
    else:
        _print_document([plain(row) for row in rows], output)


def print_object(value: Row, output: Format) -> None:
    """Print one object: as an aligned list of keys and values, or as JSON or YAML."""
    if output is not Format.TABLE:
        _print_document(plain(value), output)
        return
    width = max(len(name) for name in value)
    for name, item in value.items():
        text = _long_text(plain(item))
        head = f"{name:<{width}}  "
        write(head + text.replace("\n", "\n" + " " * len(head)) if text else head.rstrip())


def write(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Write a remark for people to standard error, where it spoils no output."""
    sys.stderr.write(one_line(text) + "\n")


def _print_document(value: Any, output: Format) -> None:
    if output is Format.JSON:
        write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    titles = [column.upper().replace("_", " ") for column in columns]
    if sys.stdout.isatty():
        _print_rich(titles, cells)
        return
    # Nothing is cut where a program may read it.
    widths = [max(len(text) for text in texts) for texts in zip(titles, *cells, strict=True)]
    for line in [titles, *cells]:
        write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for index, title in enumerate(titles):
        # Ids are there to be copied: they wrap rather than lose their end.
        table.add_column(title, overflow="fold" if index == 0 else "ellipsis", no_wrap=index != 0)
    for line in cells:
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in line))
    Console(width=shutil.get_terminal_size().columns).print(table)


_STYLES = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "processing": "cyan",
    "retrying": "yellow",
}


def cell(value: Any) -> str:
    """A value as one short line of a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(str(value))


def _long_text(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, dict)):
        return json.dumps(value, indent=2, ensure_ascii=False)
    lines = str(value).split("\n")
    return "\n".join("".join(char if char.isprintable() else "?" for char in line) for line in lines)
