"""Find rules that read of a step what their stage cannot know yet, or what no step has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from meshflow.policy.analysis import Problem
from meshflow.policy.engine import ENTRY_POINTS, EntryPoint
from meshflow.policy.reads import Names, Path, Read, reads_of
from meshflow.policy.schema import input_schema
from meshflow.policy.syntax import Rule, calls_of
from meshflow.policy.tools.reach import Reach
from meshflow.stages import STAGE_BY_NAME

_Given = tuple[tuple[str, Path], ...]


def wrong_reads(reach: Reach) -> Iterator[Problem]:
    """Yield a problem for each place that reads a field of ``input`` which is not there at the stage that asks.

    Parts of input are followed into variables and into the functions that they are handed to.
    """
    told: set[tuple[str, str]] = set()
    for entry in ENTRY_POINTS:
        schema = input_schema(entry)
        for read in _reads_at(reach, entry, schema):
            problem = _problem(read.path, entry, schema)
            if problem is not None and (read.where, problem) not in told:
                told.add((read.where, problem))
                yield Problem(read.where, problem)


def _reads_at(reach: Reach, entry: EntryPoint, schema: Mapping[str, Any]) -> Iterator[Read]:
    """Yield what an entry point's rules read of ``input``."""
    functions: dict[str, list[Rule]] = {}
    for rule in reach.rules:
        if rule.function:
            functions.setdefault(rule.path, []).append(rule)
    work: list[tuple[Rule, _Given]] = [(rule, ()) for rule in reach.from_rule(entry.rule)]
    seen: set[tuple[int, _Given]] = set()
    while work:
        rule, given = work.pop()
        if (id(rule), given) in seen:
            continue
        seen.add((id(rule), given))
        names = Names(rule, dict(given))
        yield from reads_of(rule, names)
        for call in calls_of(rule):
            for function in (one for name in call.names for one in functions.get(name, ())):
                handed = _handed(function, call.arguments, names, schema)
                if handed:
                    work.append((function, handed))


def _handed(function: Rule, arguments: tuple[Any, ...], names: Names, schema: Mapping[str, Any]) -> _Given:
    """Return the parameters of a function that a call makes parts of input whose fields are known."""
    pairs = zip(function.body["head"]["Func"]["args"], arguments, strict=False)
    found = ((parameter["Var"]["value"], names.part(given)) for parameter, given in pairs if "Var" in parameter)
    # Below an open part anything may stand, and functions that call themselves would go deeper for ever.
    closed = ((name, path) for name, path in found if path is not None and "properties" in schema_at(path, schema))
    return tuple(sorted(closed))


def _problem(path: Path, entry: EntryPoint, schema: Mapping[str, Any]) -> str | None:
    missing = _missing(path, schema)
    if missing is None:
        return None
    written = ".".join(("input", *path[: missing + 1]))
    number = STAGE_BY_NAME[entry.stage].number
    for later in ENTRY_POINTS:
        if STAGE_BY_NAME[later.stage].number > number and _missing(path, input_schema(later)) is None:
            there = f"it is from stage {STAGE_BY_NAME[later.stage].number} on, at {later.rule}"
            return f"{written} is not known yet at stage {number}, where {entry.rule} is asked; {there}"
    known = list(schema_at(path[:missing], schema)["properties"])
    near = get_close_matches(path[missing], known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
    return f"no step has {written}{hint}"


def _missing(path: Path, schema: Mapping[str, Any]) -> int | None:
    """Return the place of the first name in a path that a closed object of the schema does not have."""
    for place, name in enumerate(path):
        if schema.get("additionalProperties") is not False:
            return None
        if name not in schema["properties"]:
            return place
        schema = schema["properties"][name]
    return None


def schema_at(path: Path, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a schema that describes a path which it has; an empty one where anything may stand."""
    for name in path:
        schema = schema.get("properties", {}).get(name, {})
    return schema
