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
    # A block keeps its text only if no line ends in a space and nothing in it needs an escape.
    block = "\n" in text and _fits_block(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else None)


def _fits_block(text: str) -> bool:
    lines = text.split("\n")
    return text[:1] not in (" ", "\n") and all(line.isprintable() and line == line.rstrip() for line in lines)


_Dumper.add_representer(str, _text)


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Return the YAML text of plain data, keys in the order in which they stand."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
