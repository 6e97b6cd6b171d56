"""Find rules that read of a step what their stage cannot know yet, or what no step has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from meshflow.policy.analysis import Problem
from meshflow.policy.engine import ENTRY_POINTS, EntryPoint
from meshflow.policy.reads import Names, Path, Read, reads_of
from meshflow.policy.schema import input_schema
from meshflow.policy.syntax import Rule, bodies_of, calls_of
from meshflow.policy.tools.reach import Reach
from meshflow.stages import STAGE_BY_NAME

_Given = tuple[tuple[str, Path], ...]
_Taken = tuple[Rule, _Given]


def wrong_reads(reach: Reach) -> Iterator[Problem]:
    """Yield a problem for each place that reads a field of ``input`` which is not there at the stage that asks.

    Parts of input are followed into variables and into the functions that they are handed to.
    """
    told: set[tuple[str, str]] = set()
    functions: dict[str, list[Rule]] = {}
    for rule in reach.rules:
        if rule.function and not rule.default:
            functions.setdefault(rule.path, []).extend(bodies_of(rule))
    handed: dict[int, set[_Given]] = {}
    walks = [_Walk(reach, entry, functions, handed) for entry in ENTRY_POINTS]
    for walk in walks:
        for _ in walk.reads():  # what all the calls hand to each function
            pass
    for walk in walks:
        for read in walk.reads(suited=True):
            problem = _problem(read.path, walk.entry, walk.schema)
            if problem is not None and (read.where, problem) not in told:
                told.add((read.where, problem))
                yield Problem(read.where, problem)


class _Walk:
    """What the rules of one entry point read of ``input``; ``handed`` gathers what each body of a function is given."""

    def __init__(
        self, reach: Reach, entry: EntryPoint, functions: Mapping[str, list[Rule]], handed: dict[int, set[_Given]]
    ) -> None:
        self.entry = entry
        self.schema = input_schema(entry)
        self._rules = reach.from_rule(entry.rule)
        self._functions = functions
        self._handed = handed
        self._fits: dict[tuple[int, _Given], bool] = {}
        self._named: dict[tuple[int, _Given], Names] = {}

    def reads(self, *, suited: bool = False) -> Iterator[Read]:
        """Yield each read; with ``suited``, of a function for several shapes only what is meant for the shape."""
        work: list[_Taken] = [(rule, ()) for rule in self._rules]
        seen: set[tuple[int, _Given]] = set()
        while work:
            rule, given = work.pop()
            if (id(rule), given) in seen:
                continue
            seen.add((id(rule), given))
            names = self._names(rule, given)
            yield from reads_of(rule, names)
            for bodies in self._calls(rule, names):
                for body, parts in bodies:
                    self._handed.setdefault(id(body), set()).add(parts)
                work += self._suited(bodies) if suited else [one for one in bodies if one[1]]

    def _names(self, rule: Rule, given: _Given) -> Names:
        key = id(rule), given
        if key not in self._named:
            self._named[key] = Names(rule, dict(given))
        return self._named[key]

    def _calls(self, rule: Rule, names: Names) -> Iterator[list[_Taken]]:
        """Yield for each function that a rule calls its bodies, with the parts of input that the call hands over."""
        for call in calls_of(rule):
            for name in call.names:
                yield [
                    (body, _handed(body, call.arguments, names, self.schema)) for body in self._functions.get(name, ())
                ]

    def _suited(self, bodies: list[_Taken]) -> list[_Taken]:
        """Return the bodies that take parts of input; of a function for several shapes, those that fit, if any do."""
        taking = [(body, given) for body, given in bodies if given]
        fitting = [(body, given) for body, given in taking if self._fit(body, given) and self._looks(body, given)]
        several = any(len(self._handed[id(body)]) > 1 for body, _ in taking)
        return fitting if fitting and several else taking

    def _fit(self, body: Rule, given: _Given) -> bool:
        """Return whether all is there that a body reads, also through the functions that it hands parts to."""
        key = id(body), given
        if key not in self._fits:
            self._fits[key] = True  # as long as it is not known: it may call itself
            names = self._names(body, given)
            self._fits[key] = all(_missing(read.path, self.schema) is None for read in reads_of(body, names)) and all(
                any(not parts or self._fit(one, parts) for one, parts in bodies)
                for bodies in self._calls(body, names)
                if bodies
            )
        return self._fits[key]

    def _looks(self, body: Rule, given: _Given) -> bool:
        """Return whether a body looks below a part that it is handed, or hands it on; an else for the rest does not."""
        names = self._names(body, given)
        below = any(read.path[: len(part)] == part != read.path for read in reads_of(body, names) for _, part in given)
        return below or any(parts for bodies in self._calls(body, names) for _, parts in bodies)


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
