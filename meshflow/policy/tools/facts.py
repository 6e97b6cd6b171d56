"""Find rules that read of a step what their stage cannot know yet, or what no step has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from meshflow.policy.analysis import Problem
from meshflow.policy.engine import ENTRY_POINTS, EntryPoint
from meshflow.policy.schema import input_schema
from meshflow.policy.syntax import Reference, references
from meshflow.policy.tools.reach import Reach
from meshflow.stages import STAGE_BY_NAME


def wrong_reads(reach: Reach) -> Iterator[Problem]:
    """Yield a problem for each place that reads a field of ``input`` which is not there at the stage that asks.

    What a rule hands to a function as a whole is not followed into it.
    """
    told: set[tuple[str, str]] = set()
    for entry in ENTRY_POINTS:
        schema = input_schema(entry)
        for rule in reach.from_rule(entry.rule):
            for read in references(rule):
                if read.path[0] != "input":
                    continue
                problem = _problem(read, entry, schema)
                if problem is not None and (read.where, problem) not in told:
                    told.add((read.where, problem))
                    yield Problem(read.where, problem)


def _problem(read: Reference, entry: EntryPoint, schema: Mapping[str, Any]) -> str | None:
    missing = _missing(read.path, schema)
    if missing is None:
        return None
    written = ".".join(read.path[: missing + 1])
    number = STAGE_BY_NAME[entry.stage].number
    for later in ENTRY_POINTS:
        if STAGE_BY_NAME[later.stage].number > number and _missing(read.path, input_schema(later)) is None:
            there = f"it is from stage {STAGE_BY_NAME[later.stage].number} on, at {later.rule}"
            return f"{written} is not known yet at stage {number}, where {entry.rule} is asked; {there}"
    known = _properties(read.path[:missing], schema)
    near = get_close_matches(read.path[missing], known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
    return f"no step has {written}{hint}"


def _missing(path: tuple[str, ...], schema: Mapping[str, Any]) -> int | None:
    """Return the place of the first name in a path that a closed object of the schema does not have."""
    for place in range(1, len(path)):
        if schema.get("additionalProperties") is not False:
            return None
        if path[place] not in schema["properties"]:
            return place
        schema = schema["properties"][path[place]]
    return None


def _properties(path: tuple[str, ...], schema: Mapping[str, Any]) -> list[str]:
    for name in path[1:]:
        schema = schema["properties"][name]
    return list(schema["properties"])
