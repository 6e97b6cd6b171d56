"""Find rules that nothing uses, and reads of data that nothing defines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshflow.policy.analysis import Problem
from meshflow.policy.bundle import LIBRARIES
from meshflow.policy.engine import ENTRY_POINTS
from meshflow.policy.syntax import Rule, path_of, references
from meshflow.policy.tools.never import holds_always
from meshflow.policy.tools.reach import Reach


def unused(reach: Reach) -> Iterator[Problem]:
    """Yield the rules that no entry point reaches, once a name."""
    used = {id(rule) for entry in ENTRY_POINTS for rule in reach.from_rule(entry.rule)}
    tested = {id(rule) for rule in reach.from_tests()}
    told: set[str] = set()
    for rule in reach.rules:
        if id(rule) in used or rule.is_test or rule.path in told or rule.file.endswith("_test.rego"):
            continue
        if rule.file.startswith(LIBRARIES):
            continue
        told.add(rule.path)
        kind = "function" if rule.function else "rule"
        only = "; tests alone use it" if id(rule) in tested else ""
        yield Problem(rule.where, f"no entry point reaches the {kind} {rule.name}{only}")


def undefined_decisions(rules: list[Rule]) -> Iterator[Problem]:
    """Yield entry points that have no value for some steps, which then are denied as undefined."""
    for entry in ENTRY_POINTS:
        own = [rule for rule in rules if rule.path == entry.rule]
        if own and not any(rule.default or _unconditional(rule) for rule in own):
            message = f"{entry.rule} has no value where its conditions do not hold, which denies; give it a default"
            yield Problem(own[0].where, message)


def _unconditional(rule: Rule) -> bool:
    bodies = rule.body.get("bodies", ())
    return not bodies or any(holds_always(body["query"]["stmts"]) for body in bodies)


def undefined_reads(reach: Reach, data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what rules that are asked read of ``data``, and neither a rule nor the data document has.

    Data that some rule asks to be there at all, by a condition of its own, is taken to be there by choice.
    """
    defined = {rule.path for rule in reach.rules}
    below = {path[:place] for path in defined for place, letter in enumerate(path) if letter == "."}
    asked = {id(rule): rule for entry in ENTRY_POINTS for rule in reach.from_rule(entry.rule)}.values()
    packages = {rule.package for rule in reach.rules}
    told = {name for rule in asked for name in _asked_for(rule) if name.rpartition(".")[0] not in packages}
    for rule in asked:
        for read in references(rule):
            if read.path[0] != "data" or len(read.path) == 1 or not read.named:
                continue
            names = [".".join(read.path[:end]) for end in range(2, len(read.path) + 1)]
            known = names[-1] in below or not told.isdisjoint(names)
            if not known and not _defines(read.path, defined, data):
                told.add(names[-1])
                hint = "where no data is laid over it, it is undefined"
                yield Problem(read.where, f"nothing in the bundle defines {names[-1]}; {hint}")


def _asked_for(rule: Rule) -> Iterator[str]:
    for body in rule.body.get("bodies", ()):
        for statement in body["query"]["stmts"]:
            literal = statement["literal"]
            expression = (literal.get("Expr") or literal.get("NotExpr") or {}).get("expr", {})
            if expression.keys() & {"RefDot", "RefBrack"}:
                path = path_of(expression)
                if path is not None and path[0] == "data":
                    yield ".".join(path)


def _defines(path: tuple[str, ...], rules: set[str], data: Mapping[str, Any]) -> bool:
    """Return whether a path is a rule, lies below one, or is in the data, or below a value there that is no mapping."""
    if any(".".join(path[:end]) in rules for end in range(1, len(path) + 1)):
        return True
    value: Any = data
    for name in path[1:]:
        if not isinstance(value, Mapping):
            return True
        if name not in value:
            return False
        value = value[name]
    return True
