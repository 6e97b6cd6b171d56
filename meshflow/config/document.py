"""Read YAML text into plain values, with the line of every path, within fixed bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from meshflow.config.interpolate import MAX_TEXT, InterpolationError, interpolate
from meshflow.config.problems import Problem, raise_problems
from meshflow.config.source import MAX_DEPTH, MAX_NODES, SettingPath, Source, TextMark, shown
from meshflow.errors import ConfigError

_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
# YAML reads a bare date as a date; settings keep it as text, which a date field parses just as well.
_TEXT = frozenset(f"{_YAML}{name}" for name in ("str", "timestamp", "value"))
_BOOLS = yaml.SafeLoader.bool_values
_MAX_INT = 2**63 - 1
_Pairs: TypeAlias = dict[str, tuple[yaml.ScalarNode, yaml.Node]]


def check_scalar(value: bool | int | float | str | None) -> str | None:
    """Return what is wrong with a single value, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number that a setting can have"
    if isinstance(value, int) and abs(value) > _MAX_INT:
        return "a number beyond 64 bits is not a number that a setting can have"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "holds half of a surrogate pair, which is not text"
    return None


def _indent(node: yaml.ScalarNode) -> int:
    """Return by how much the lines of a block are indented, 0 for another text."""
    first = next((line for line in node.value.split("\n") if line.strip()), "")
    text, at = node.start_mark.buffer, node.start_mark.pointer
    if node.style != "|" or not first or text is None:
        return 0
    while (at := text.find("\n", at) + 1) > 0:
        line = text[at : text.find("\n", at)].rstrip("\r\0")
        if line.strip():
            return max(0, len(line) - len(first))
    return 0


class _Composer(yaml.SafeLoader):
    """SafeLoader's composer, which stops at a depth and a count instead of at the end of the stack."""

    depth = 0
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH + 1:
            raise ComposerError(None, None, f"more than {MAX_DEPTH} levels deep", self.get_mark())
        if self.count > MAX_NODES:
            raise ComposerError(None, None, f"more than {MAX_NODES} values", self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(text: str, name: str, environ: Mapping[str, str] | None, *, columns: bool = False) -> tuple[Any, Source]:
    """Return the document's value and where each part of it stands; ConfigError for anything but one plain document.

    Without ``environ`` a ``${NAME}`` is text like any other. With ``columns`` places have a column besides their line,
    and only ``true`` and ``false`` are truth values: nothing says of data whether ``off`` was meant as a word.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"more than {MAX_TEXT} characters", where=name)
    node = _compose(text, name, columns)
    builder = _Builder(name, environ, columns)
    if columns:
        mark = node.start_mark if node is not None else None
        builder.lines[()], builder.columns[()] = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
    value = None if node is None else builder.build(node, ())
    source = Source(name, builder.lines, builder.variables, columns=builder.columns, texts=builder.texts)
    raise_problems(builder.problems, source)
    return value, source


def _compose(text: str, name: str, columns: bool) -> yaml.Node | None:
    column = 0
    try:
        loader = _Composer(text)
        return loader.get_single_node()
    except ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"character {error.character:#x} may not stand here"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = (mark.line + 1 if mark else 1), error.problem or "cannot be read"
        column = mark.column + 1 if mark else 0
    except (ValueError, OverflowError):
        # PyYAML turns the digits of an escape or a %YAML directive into a number without checking them.
        line, problem = 1, "an escape or directive holds a number out of range"
    if "another document" in str(problem):
        problem = "a second document starts here, and a file is one document"
    if any("${" in part for part in text.split("\n")[line - 1 : line]):
        problem += "; inside [ ] and { }, ${NAME} must stand in quotes"
    where = f"{name}:{line}:{column}" if columns and column else f"{name}:{line}"
    raise ConfigError(f"not valid YAML: {problem}", where=where)


class _Builder:
    """Turns composed nodes into values; aliases are expanded, and counted each time."""

    def __init__(self, name: str, environ: Mapping[str, str] | None, columns: bool) -> None:
        self.lines: dict[SettingPath, int] = {}
        self.columns: dict[SettingPath, int] = {}
        self.texts: dict[SettingPath, TextMark] = {}
        self.variables: dict[SettingPath, tuple[str, ...]] = {}
        self.problems: list[Problem] = []
        self._name = name
        self._environ = environ
        self._with_columns = columns
        self._open: set[int] = set()
        self._count = 0
        self._interpolated = 0

    def build(self, node: yaml.Node, path: SettingPath) -> Any:
        self._enter(node, path)
        value: Any
        if isinstance(node, yaml.ScalarNode):
            value = self._scalar(node, path)
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{_YAML}map":
            value = {key: self._child(k, v, (*path, key)) for key, (k, v) in self._pairs(node, path).items()}
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_YAML}seq":
            value = [self._child(item, item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            raise self._error(node, path, f"tag {shown(node.tag)} is not accepted; remove it")
        self._open.discard(id(node))
        return value

    def _child(self, place: yaml.Node, node: yaml.Node, path: SettingPath) -> Any:
        self.lines[path] = place.start_mark.line + 1
        if self._with_columns:
            self.columns[path] = place.start_mark.column + 1
            if isinstance(node, yaml.ScalarNode):
                # In a block ("|" or ">") the text begins in the line after the mark, and indented.
                mark = node.start_mark
                self.texts[path] = TextMark(mark.line + 1, mark.column + 1, node.style or "", _indent(node))
        return self.build(node, path)

    def _enter(self, node: yaml.Node, path: SettingPath) -> None:
        self._count += 1
        if id(node) in self._open:
            raise self._error(node, path, "an alias refers to what it is part of")
        if self._count > MAX_NODES:
            raise self._error(node, path, f"more than {MAX_NODES} values once aliases are expanded")
        if len(path) > MAX_DEPTH:
            raise self._error(node, path, f"more than {MAX_DEPTH} levels deep")
        self._open.add(id(node))

    def _pairs(self, node: yaml.MappingNode, path: SettingPath) -> _Pairs:
        """Return the mapping's entries by key; what ``<<`` brings in gives way to what stands beside it."""
        pairs: _Pairs = {}
        merged: yaml.Node | None = None
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE and merged is None:
                merged = value_node
                continue
            key = self._key(key_node, path)
            if key in pairs or key_node.tag == _MERGE:
                first = f", first in line {pairs[key][0].start_mark.line + 1}" if key in pairs else ""
                raise self._error(key_node, (*path, key), f"the key is there twice{first}; keep one")
            pairs[key] = (key_node, value_node)
        if merged is not None:
            for key, pair in self._merged(merged, path).items():
                pairs.setdefault(key, pair)
        return pairs

    def _merged(self, node: yaml.Node, path: SettingPath) -> _Pairs:
        pairs: _Pairs = {}
        self._enter(node, path)
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.MappingNode):
                raise self._error(item, path, "<< takes an alias of a mapping, or a list of them")
            if item is not node:
                self._enter(item, path)
            self._count += len(item.value)
            for key, pair in self._pairs(item, path).items():
                pairs.setdefault(key, pair)
            self._open.discard(id(item))
        self._open.discard(id(node))
        return pairs

    def _key(self, node: yaml.Node, path: SettingPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, path, "a key is one word of text, not a list or a mapping")
        if node.tag in _TEXT or node.tag == _MERGE:
            wrong = check_scalar(node.value)
            if wrong:
                raise self._error(node, path, f"key {shown(node.value)} {wrong}")
            return str(node.value)
        kind = node.tag.removeprefix(_YAML)
        read = {"bool": "true or false", "null": "null", "int": "a number", "float": "a number"}.get(kind, shown(kind))
        message = f"YAML reads the key {shown(node.value)} as {read}; put it in quotes"
        raise self._error(node, path, message)

    def _scalar(self, node: yaml.ScalarNode, path: SettingPath) -> bool | int | float | str | None:
        if node.tag in _TEXT:
            return self._text(node, path)
        value = self._plain(node, path)
        wrong = check_scalar(value)
        if wrong:
            raise self._error(node, path, wrong)
        return value

    def _plain(self, node: yaml.ScalarNode, path: SettingPath) -> bool | int | float | None:
        kind, text = node.tag.removeprefix(_YAML), node.value.lower()
        if kind == "null" and text in ("", "~", "null"):
            return None
        if kind == "bool" and text in _BOOLS:
            if self._with_columns and text not in ("true", "false"):
                read = str(_BOOLS[text]).lower()
                message = f"YAML reads {shown(node.value)} as {read}; write {read}, or put the word in quotes"
                self.problems.append(Problem(path, message))
            return _BOOLS[text]
        if kind in ("int", "float"):
            return self._number(node, path, kind)
        raise self._error(node, path, f"tag {shown(node.tag)} is not accepted here; remove it")

    def _number(self, node: yaml.ScalarNode, path: SettingPath, kind: str) -> int | float:
        sign = -1 if node.value.startswith("-") else 1
        digits = node.value.lstrip("+-").replace("_", "").lower()
        if ":" in digits or (kind == "int" and digits[:1] == "0" and digits[1:].isdigit()):
            message = f"{shown(node.value)} would be read in base 60 or 8; quote it, or write a plain number"
            raise self._error(node, path, message)
        try:
            if kind == "int":
                return sign * int(digits, 0)
            return sign * float({".inf": "inf", ".nan": "nan"}.get(digits, digits))
        except ValueError:
            raise self._error(node, path, f"{shown(node.value)} is not a number that a setting can have") from None

    def _text(self, node: yaml.ScalarNode, path: SettingPath) -> str:
        if self._environ is None:
            return self._checked_text(node, path, node.value)
        try:
            text, names = interpolate(node.value, self._environ)
        except InterpolationError as error:
            self.problems.append(Problem(path, str(error)))
            return ""
        if names:
            self.variables[path] = names
            self._interpolated += len(text)
        if self._interpolated > MAX_TEXT:
            message = f"values from the environment come to more than {MAX_TEXT} characters"
            raise self._error(node, path, message)
        return self._checked_text(node, path, text)

    def _checked_text(self, node: yaml.Node, path: SettingPath, text: str) -> str:
        wrong = check_scalar(text)
        if wrong:
            raise self._error(node, path, wrong)
        return text

    def _error(self, node: yaml.Node, path: SettingPath, message: str) -> ConfigError:
        self.lines.setdefault(path, node.start_mark.line + 1)
        where = f"{self._name}:{node.start_mark.line + 1}"
        if self._with_columns:
            where += f":{node.start_mark.column + 1}"
        return Problem(path, message).error(Source(self._name, self.lines), where)
