"""Find rules that nothing uses, and bodies that can never hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshflow.policy.analysis import Problem
from meshflow.policy.bundle import LIBRARIES
from meshflow.policy.engine import ENTRY_POINTS
from meshflow.policy.syntax import Node, Rule
from meshflow.policy.tools.reach import Reach

_LITERALS = frozenset({"Number", "String", "RawString", "Bool", "Null"})


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


def unreachable(rules: list[Rule]) -> Iterator[Problem]:
    """Yield conditions that are never true, and alternatives behind one that always is."""
    for rule in rules:
        always = False
        for body in rule.body.get("bodies", ()):
            statements = body["query"]["stmts"]
            line = body["span"]["line"]
            if always:
                yield Problem(f"{rule.file}:{line}", f"this else of {rule.name} is never reached: what is before holds")
                break
            never = next((one for one in statements if _never(one)), None)
            if never is not None:
                where = f"{rule.file}:{never['span']['line']}"
                yield Problem(where, f"this condition of {rule.name} is never true, so the body never holds")
            always = all(_always(one) for one in statements)


def undefined_decisions(rules: list[Rule]) -> Iterator[Problem]:
    """Yield entry points that have no value for some steps, which then are denied as undefined."""
    for entry in ENTRY_POINTS:
        own = [rule for rule in rules if rule.path == entry.rule]
        if own and not any(rule.default or _unconditional(rule) for rule in own):
            message = f"{entry.rule} has no value where its conditions do not hold, which denies; give it a default"
            yield Problem(own[0].where, message)


def _unconditional(rule: Rule) -> bool:
    bodies = rule.body.get("bodies", ())
    return not bodies or any(all(_always(one) for one in body["query"]["stmts"]) for body in bodies)


def _expression(statement: Node) -> Any:
    literal = statement["literal"]
    return literal["Expr"]["expr"] if "Expr" in literal else None


def _never(statement: Node) -> bool:
    return _constant(_expression(statement)) is False


def _always(statement: Node) -> bool:
    return _constant(_expression(statement)) is True


def _constant(expression: Any) -> bool | None:
    """Return what a condition always is, where that shows from its text."""
    if not isinstance(expression, dict):
        return None
    if "Bool" in expression:
        value: bool = expression["Bool"]["value"]
        return value
    compared = expression.get("BoolExpr")
    if compared is None or compared["op"] not in ("Eq", "Ne"):
        return None
    left, right = _literal(compared["lhs"]), _literal(compared["rhs"])
    if left is None or right is None:
        return None
    return (left == right) is (compared["op"] == "Eq")


def _literal(node: Node) -> tuple[str, Any] | None:
    ((kind, body),) = node.items()
    return (kind, body.get("value")) if kind in _LITERALS else None
