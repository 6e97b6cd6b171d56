"""Read the data documents of a bundle strictly, and put each where its folder says, as OPA does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import yaml

from meshflow.errors import ConfigError
from meshflow.policy.encode import MAX_DEPTH

DATA_NAMES = frozenset({"data.json", "data.yaml", "data.yml"})


def parse_document(content: bytes, name: str) -> dict[str, Any]:
    """Return the mapping that a JSON or YAML file holds; ConfigError with ``name:line`` for anything else."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text", where=_at(name, content[: error.start].decode("utf-8"))) from None
    value = _json(text, name) if name.endswith(".json") else _yaml(text, name)
    if not isinstance(value, dict):
        raise ConfigError(f"a data document must be a mapping, not {type(value).__name__}", where=name)
    problem = unfit(value)
    if problem:
        raise ConfigError(problem, where=name)
    return value


def place(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return one document out of many, each below the folders of its path; ConfigError where two set the same key."""
    root: dict[str, Any] = {}
    for name, document in documents:
        below: Any = document
        for folder in reversed(name.split("/")[:-1]):
            below = {folder: below}
        merge(root, below, name)
    return root


def merge(into: dict[str, Any], other: Mapping[str, Any], name: str, *, replace: bool = False) -> None:
    """Merge a document into another in place. A key that both set is an error, or the other's with ``replace``."""
    for key, value in other.items():
        if key not in into:
            into[key] = _copied(value)
        elif isinstance(into[key], dict) and isinstance(value, Mapping):
            merge(into[key], value, name, replace=replace)
        elif replace:
            into[key] = _copied(value)
        else:
            raise ConfigError(f"sets {key!r}, which another data document of the bundle sets too", where=name)


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg}", where=f"{name}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(message, where=name) from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc]
    """Safe YAML without what surprises: a key given twice, a key that is no text, a time of day that is a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} must be text; put it in quotes", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _no_clock(loader: Any, node: Any) -> Any:
    # YAML 1.1 reads 12:30 as 750, and OPA as text.
    if ":" in node.value:
        problem = f"{node.value} could be a number; put it in quotes"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    number = node.tag.rpartition(":")[2]
    return loader.construct_yaml_int(node) if number == "int" else loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _no_clock)
# YAML 1.1 wants a point in 1e3, and OPA does not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\.\d+|\d+\.?\d*)[eE][-+]?\d+", re.ASCII), list("-+.0123456789")
)


def _yaml(text: str, name: str) -> Any:
    try:
        _check_events(text)
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader, narrowed further
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not YAML: {error.problem or error.context}", where=f"{name}:{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not YAML: {type(error).__name__}", where=name) from None


def _check_events(text: str) -> None:
    """Refuse aliases, with which a short file unfolds to gigabytes, and depth, which costs the parser its square."""
    depth = 0
    for event in yaml.parse(text, _Safe):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        problem = "aliases are not allowed" if isinstance(event, yaml.AliasEvent) else ""
        if depth > MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
        if problem:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def unfit(root: Any) -> str | None:
    """Return why a document would not survive the way to an engine."""
    stack: list[tuple[Any, int]] = [(root, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH} levels"
        if isinstance(value, dict):
            stack.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            stack.extend((item, depth + 1) for item in value)
        elif isinstance(value, float):
            if not isfinite(value):
                return "holds a number that is not finite"
        elif value is not None and not isinstance(value, (str, int, bool)):
            return f"holds a value of type {type(value).__name__}; put it in quotes to make it text"
    return None


def _at(name: str, before: str) -> str:
    return f"{name}:{before.count(chr(10)) + 1}"
