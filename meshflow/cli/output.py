"""What commands print: JSON for programs, tables for people, and never a control character from the data."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meshflow.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160
NARROW = 60
_MAX_DEPTH = 64


def line(value: object) -> str:
    """Return a value for one line or one cell of a table."""
    if value is None:
        return ""
    return visible(str(value)).replace("\n", "\\n").replace("\t", " ")


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON can carry it; what JSON has no form for becomes text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, Collection) and not isinstance(value, (bytes, bytearray)):
            return [plain(item, depth + 1) for item in value]
    return str(value)


def print_json(document: Any) -> None:
    """Write one document to stdout, in ASCII, so that any locale can carry it."""
    sys.stdout.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")


def say(*lines: str) -> None:
    """Write lines to stdout as they are: never wrapped, so that a command can be copied from them."""
    for one in lines:
        sys.stdout.write(visible(one) + "\n")


def warn(message: str) -> None:
    """Write a line to stderr."""
    print(f"meshflow: {visible(message)}", file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """Return a console for tables; beside a terminal it is wide, so that pipes get whole lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    fixed = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(
        file=stream, width=PIPE_WIDTH if fixed else None, markup=False, highlight=False, emoji=False,
    )  # fmt: skip


def print_table(
    title: str, headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[str] = ()
) -> None:
    """Print a table, or one block a row where the terminal is too narrow; ``right`` names columns of numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    screen, title = console(), line(title)
    cells = [[line(cell) for cell in row] for row in rows]
    if screen.width < NARROW:
        _print_blocks(title, headers, cells)
        return
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    with screen.capture() as captured:
        screen.print(table)
    sys.stdout.write("\n".join(one.rstrip() for one in captured.get().splitlines()) + "\n\n")


def _print_blocks(title: str, headers: Sequence[str], rows: list[list[str]]) -> None:
    if title:
        say(title, "")
    for row in rows:
        say(*(f"{header}: {cell}" for header, cell in zip(headers, row, strict=True) if cell), "")


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line, leaving out what has no value."""
    kept = [(name, line(value)) for name, value in pairs if value not in (None, "", (), [])]
    width = max((len(name) for name, _ in kept), default=0)
    say(*(f"{name:<{width}}  {value}" for name, value in kept))


def flat(value: object) -> object:
    """Return a list or a mapping in one line, as people write them; anything else as it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def counted(count: int, what: str) -> str:
    """Return a number of things, in singular or plural."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def usd(micro_usd: int) -> str:
    """Return an amount in USD with as many places as it needs, at least two."""
    whole, part = divmod(abs(micro_usd), 1_000_000)
    places = f"{part:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro_usd < 0 else ''}${whole:,}.{places}"


def ms(value: float | None) -> str:
    """Return milliseconds for a cell."""
    return "" if value is None else f"{value:.2f}"
