"""Write the tables of docs/reference/configuration.md from the settings models: python docs/settings.py"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from meshflow.config.models import SECTIONS, ApprovalsConfig, PluginsConfig, StageConfig, TenantConfig
from meshflow.ledger.anchors.find import SHIPPED, anchor_type
from meshflow.registry.discover import discover, import_plugin
from meshflow.registry.manifest import FIRST_PARTY

PAGE = Path(__file__).parent / "reference" / "configuration.md"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"
_MARKED = re.compile(r"<!-- begin: (?P<name>[a-z0-9_ ]+) -->\n.*?<!-- end: (?P=name) -->", re.DOTALL)
_HEAD = "| setting | what it takes | default | meaning |\n|---|---|---|---|\n"
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
Schema = Mapping[str, Any]


class Table:
    """The rows of one settings model, nested models flattened: ``retry.max_attempts``, ``rates[].name``."""

    def __init__(self, model: type[BaseModel], *, flat: bool = False) -> None:
        self._schema = model.model_json_schema(by_alias=True)
        self._defs: Schema = self._schema.get("$defs", {})
        self._flat = flat

    def text(self) -> str:
        """Return the table."""
        return _HEAD + "\n".join(self._rows(self._schema, "", frozenset()))

    def _rows(self, schema: Schema, prefix: str, inside: frozenset[str]) -> Iterator[str]:
        for name, field in schema.get("properties", {}).items():
            path = f"{prefix}{name}"
            default = self._default(field) if name not in schema.get("required", ()) else "required"
            meaning = " ".join(str(field.get("description", "")).split())
            meaning = meaning[:1].upper() + meaning[1:].rstrip(".") + "." if meaning else ""
            yield _row(f"`{path}`", self._kind(field), default, meaning)
            for suffix, key in () if self._flat else self._nested(field):
                if key not in inside:
                    yield from self._rows(self._defs[key], f"{path}{suffix}.", inside | {key})

    def _default(self, field: Schema) -> str:
        value = field.get("default", {})
        if value is None:
            return "unset"
        if isinstance(value, dict):
            return "as below" if any(not suffix for suffix, _ in self._nested(field)) and not self._flat else "empty"
        return "empty" if value in ("", []) else f"`{_shown(value)}`"

    def _nested(self, field: Schema) -> Iterator[tuple[str, str]]:
        """Yield the models below a field, and what a path says of the way: nothing, ``[]`` or ``.<name>``."""
        if "$ref" in field:
            key = field["$ref"].rpartition("/")[2]
            if "properties" in self._defs[key]:
                yield "", key
        for part in (*field.get("anyOf", ()), *field.get("allOf", ())):
            yield from self._nested(part)
        if isinstance(field.get("items"), dict):
            yield from ((f"[]{suffix}", key) for suffix, key in self._nested(field["items"]))
        if isinstance(field.get("additionalProperties"), dict):
            yield from ((f".<name>{suffix}", key) for suffix, key in self._nested(field["additionalProperties"]))

    def _kind(self, field: Schema) -> str:
        if "$ref" in field:
            target = self._defs[field["$ref"].rpartition("/")[2]]
            return "mapping" if "properties" in target else self._kind(target)
        if "anyOf" in field:
            kinds = [self._kind(part) for part in field["anyOf"] if part.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
        if "enum" in field:
            return " or ".join(f"`{value}`" for value in field["enum"])
        if "const" in field:
            return f"`{field['const']}`"
        if field.get("type") == "array":
            items = field.get("items") or {}
            return f"list of {self._kind(items)}" + _bounds(field, "minItems", "maxItems", "items")
        if field.get("type") == "object":
            values = field.get("additionalProperties")
            return f"mapping of name to {self._kind(values)}" if isinstance(values, dict) else "mapping"
        word = _WORDS.get(str(field.get("type")), "any value")
        return word + _bounds(field, "minimum", "maximum", "") + _bounds(field, "minLength", "maxLength", "characters")


def _bounds(field: Schema, low: str, high: str, unit: str) -> str:
    least, most = field.get(low), field.get(high)
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    unit = f" {unit}" if unit else ""
    if low == "minimum" and above is not None:
        return f", above {above}" + (f" and below {below}" if below is not None else _up_to(most))
    if least is not None and most is not None:
        return f", {least} to {_number(most)}{unit}"
    if least is not None:
        return "" if unit == " characters" and least == 1 else f", {least} or more{unit}"
    return _up_to(most) if most is not None else ""


def _up_to(most: Any) -> str:
    return "" if most is None else f", at most {_number(most)}"


def _number(value: Any) -> str:
    return "2^53-1" if value == 2**53 - 1 else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tables() -> dict[str, str]:
    """Return every generated part of the page by its name."""
    installed = discover()
    plugins = {name: import_plugin(installed[name]) for name in sorted(FIRST_PARTY)}
    parts = {
        "stage": Table(StageConfig).text(),
        "approvals": Table(ApprovalsConfig).text(),
        "plugins": Table(PluginsConfig).text(),
        "tenant": Table(TenantConfig, flat=True).text(),
    }
    parts |= {f"plugin {name}": Table(made.settings_type).text() for name, made in plugins.items()}
    parts |= {f"anchor {name}": Table(anchor_type(name).settings_type).text() for name in SHIPPED}
    rows = [
        _row(
            f"`{section}`", ", ".join(f"`{name}`" for name, one in plugins.items() if one.section == section) or "none"
        )
        for section in SECTIONS
    ]
    parts["sections"] = "| section | default plugins that read it |\n|---|---|\n" + "\n".join(rows)
    return parts


def page(text: str) -> str:
    """Return the page's text with every marked part written anew; KeyError for a mark that nothing fills."""
    parts = tables()

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return f"{BEGIN.format(name)}\n{parts[name]}\n{END.format(name)}"

    return _MARKED.sub(fill, text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
