"""Write a definition as YAML that reads back as the same definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

_WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Writes every value out, without anchors, and texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    """Return how a text is written: as a block where it has lines, escaped where it has more than that."""
    lines = text.split("\n")
    if not all(line.isprintable() for line in lines):
        return '"'  # other line breaks, which YAML would fold, and what no editor shows
    if len(lines) > 1 and text[0] not in " \n" and all(line == line.rstrip() for line in lines):
        return "|"
    return None


_Dumper.add_representer(str, _text)


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Return the YAML text of plain data, keys in the order in which they stand."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
