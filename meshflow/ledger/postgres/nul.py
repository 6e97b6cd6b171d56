"""Texts with NUL characters, which PostgreSQL cannot store: escaped on the way in, and as they were on the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_ESCAPE = "\ue000"  # of the private use area, so that hardly any text has it
_ESCAPED = re.compile(f"{_ESCAPE}([01])")
_CHARACTER = {"0": "\0", "1": _ESCAPE}


def storable(value: Any) -> Any:
    """Return a value, or a list of them, with its texts as PostgreSQL can keep them."""
    if type(value) is str:
        if _needs_escape(value):
            return value.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")
        return value
    # A column of one type, joined to be looked through at once.
    if type(value) is list and (texts := _texts(value)) and _needs_escape("".join(texts)):
        return [storable(one) for one in value]
    return value


def _needs_escape(text: str) -> bool:
    return "\0" in text or _ESCAPE in text


def as_written(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows with their texts as they were written."""
    if any(_ESCAPE in "".join(column) for column in map(_texts, zip(*rows, strict=True))):
        return [tuple(_unescaped(value) if type(value) is str else value for value in row) for row in rows]
    return rows


def _texts(column: Sequence[Any]) -> Sequence[str]:
    """Return the texts of a column, none if it is not one of texts."""
    first = next((value for value in column if value is not None), None)
    return [value for value in column if value is not None] if type(first) is str else ()


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: _CHARACTER[found[1]], text)
