"""Where each setting stands: its path, its line, and the environment variables it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

SettingPath: TypeAlias = tuple[str | int, ...]

MAX_DEPTH = 64
MAX_NODES = 100_000
_MAX_SHOWN = 80
_MAX_BITS = 64
_SIMPLE = re.compile(r"[A-Za-z0-9_.$-]+")


def shown(value: object) -> str:
    """Return the value as it may stand in a message: on one line, short, without control characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return "a very large number"  # Python refuses to print some of them
    text = "null" if value is None else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def dotted(path: SettingPath) -> str:
    """Return ``plugins.rego.rules[0]`` for ``("plugins", "rego", "rules", 0)``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part if len(part) <= _MAX_SHOWN and _SIMPLE.fullmatch(part) else shown(part)
        text += f".{name}" if text else name
    return text


def leaves(value: Any, path: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Yield the path and value of everything in a tree that is neither a mapping nor a list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


class TextMark(NamedTuple):
    """Where a single value begins: its line and column, the quotes or the block sign before it, a block's indent."""

    line: int
    column: int
    style: str
    indent: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """A file (or another origin of settings) and what is known of the places in it.

    ``origins`` maps a path of a tenant's merged view to the path that the operator wrote. ``columns`` and ``texts`` are
    kept only where they were asked for.
    """

    name: str
    lines: Mapping[SettingPath, int] = field(default_factory=dict)
    variables: Mapping[SettingPath, tuple[str, ...]] = field(default_factory=dict)
    origins: Mapping[SettingPath, SettingPath] = field(default_factory=dict)
    columns: Mapping[SettingPath, int] = field(default_factory=dict)
    texts: Mapping[SettingPath, TextMark] = field(default_factory=dict)

    def written(self, path: SettingPath) -> SettingPath:
        """Return the path under which the operator wrote this setting."""
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                return origin + path[length:]
        return path

    def line(self, path: SettingPath) -> int:
        """Return the line of the setting, or of the nearest one around it; 0 when no line is known."""
        return self.lines.get(self._known(path), 0)

    def where(self, path: SettingPath) -> str:
        """Return ``meshflow.yaml:14``, with ``:3`` where columns are kept, or the name alone when no line is known."""
        known = self._known(path)
        line, column = self.lines.get(known), self.columns.get(known)
        if line is None:
            return self.name
        return f"{self.name}:{line}" if column is None else f"{self.name}:{line}:{column}"

    def where_in(self, path: SettingPath, line: int, column: int) -> str:
        """Return the place of a character of a text, counted from 1 within it; that of the text where it is folded."""
        mark = self.texts.get(path)
        if mark is None or line < 1 or column < 1 or mark.style == ">":
            return self.where(path)
        if mark.style == "|":
            return f"{self.name}:{mark.line + line}:{mark.indent + column}"
        if line > 1:
            return self.where(path)
        return f"{self.name}:{mark.line}:{mark.column + len(mark.style) + column - 1}"

    def _known(self, path: SettingPath) -> SettingPath:
        """Return the path of the setting, or of the nearest one around it, whose line is known."""
        path = self.written(path)
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return path[:length]
        return ()

    def variables_in(self, path: SettingPath, value: Any) -> list[tuple[str, str]]:
        """Return (text that came from the environment, its variables) for each such text in the value at ``path``."""
        if not self.variables:
            return []
        found = []
        for below, leaf in leaves(value):
            names = self.variables.get(self.written(path + below))
            if names:
                found.append((str(leaf), " and ".join(f"${{{name}}}" for name in names)))
        return found
