"""Find bodies of rules that can never hold: constants, contradictions, and values that a field never has."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from meshflow.policy.analysis import Problem
from meshflow.policy.engine import ENTRY_POINTS
from meshflow.policy.reads import Names, Path
from meshflow.policy.schema import input_schema
from meshflow.policy.syntax import Node, Rule
from meshflow.policy.tools.facts import schema_at
from meshflow.policy.tools.reach import Reach

_LITERALS = frozenset({"Number", "String", "RawString", "Bool", "Null"})
_TEXTS = frozenset({"String", "RawString"})
_COLLECTIONS = {"Array": "items", "Set": "items", "Object": "fields"}
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Lt": operator.lt, "Le": operator.le, "Gt": operator.gt, "Ge": operator.ge,
}  # fmt: skip
_Literal = tuple[str, Any]


class _Compared(NamedTuple):
    """A condition that compares a part of input with a literal, for being equal or not."""

    part: Path
    equal: bool
    literal: _Literal


def unreachable(rules: list[Rule]) -> Iterator[Problem]:
    """Yield conditions that are never true, and alternatives behind one that always is."""
    for rule in rules:
        names = Names(rule, {})
        always = False
        for body in rule.body.get("bodies", ()):
            statements = body["query"]["stmts"]
            if always:
                where = f"{rule.file}:{body['span']['line']}"
                yield Problem(where, f"this else of {rule.name} is never reached: what is before holds")
                break
            never = next((one for one in statements if _truth(one) is False), None) or _contradiction(statements, names)
            if never is not None:
                message = f"this condition of {rule.name} is never true, so the body never holds"
                yield Problem(_where(rule, never), message)
            always = holds_always(statements) and _has_value(rule, body)


def holds_always(statements: list[Node]) -> bool:
    """Return whether it shows from their text that all conditions hold."""
    return all(_truth(one) is True for one in statements)


def _has_value(rule: Rule, body: Node) -> bool:
    """Return whether it shows from its text that there is a value: where it is undefined, the else is tried."""
    (head,) = rule.body["head"].values()
    value = body["assign"] or (None if body["is_else"] else head.get("assign"))
    return value is None or _literal(value["value"]) is not None


def strange_values(reach: Reach) -> Iterator[Problem]:
    """Yield conditions that want a value which a part of input has at none of the stages that ask."""
    reaching: dict[int, int] = {}
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for entry in ENTRY_POINTS:
        schema = input_schema(entry)
        for rule in reach.from_rule(entry.rule):
            reaching[id(rule)] = reaching.get(id(rule), 0) + 1
            for statement, compared in _comparisons(rule):
                values = _values(schema_at(compared.part, schema))
                if compared.equal and values and compared.literal[1] not in values:
                    said = f"{'.'.join(('input', *compared.part))} is never {compared.literal[1]!r} here"
                    key = _where(rule, statement), f"{said}; it is one of {', '.join(map(str, values))}"
                    found[key] = id(rule), found.get(key, (0, 0))[1] + 1
    yield from (Problem(*key) for key, (rule_id, times) in found.items() if times == reaching[rule_id])


def _values(schema: Mapping[str, Any]) -> list[Any]:
    return list(schema["enum"]) if "enum" in schema else [schema["const"]] if "const" in schema else []


def _comparisons(rule: Rule) -> Iterator[tuple[Node, _Compared]]:
    names = Names(rule, {})
    for body in rule.body.get("bodies", ()):
        for statement in body["query"]["stmts"]:
            compared = _comparison(statement, names)
            if compared is not None:
                yield statement, compared


def _comparison(statement: Node, names: Names) -> _Compared | None:
    expression = statement["literal"].get("Expr", {}).get("expr", {})
    compared = expression.get("BoolExpr")
    if compared is None or compared["op"] not in ("Eq", "Ne") or statement.get("with_mods"):
        return None
    for one, other in ((compared["lhs"], compared["rhs"]), (compared["rhs"], compared["lhs"])):
        part, literal = names.part(one), _literal(other)
        if part is not None and literal is not None:
            return _Compared(part, compared["op"] == "Eq", literal)
    return None


def _contradiction(statements: list[Node], names: Names) -> Node | None:
    """Return a condition that cannot hold beside one before it."""
    wanted: dict[Path, _Literal] = {}
    unwanted: set[tuple[Path, _Literal]] = set()
    for statement in statements:
        compared = _comparison(statement, names)
        if compared is None:
            continue
        if compared.equal:
            if wanted.setdefault(compared.part, compared.literal) != compared.literal:
                return statement
        else:
            unwanted.add((compared.part, compared.literal))
        if any((part, literal) in unwanted for part, literal in wanted.items()):
            return statement
    return None


def _where(rule: Rule, statement: Node) -> str:
    return f"{rule.file}:{statement['span']['line']}"


def _truth(statement: Node) -> bool | None:
    """Return what a condition always is, where that shows from its text."""
    literal = statement["literal"]
    if "Expr" in literal:
        return _constant(literal["Expr"]["expr"])
    if "NotExpr" in literal:
        truth = _constant(literal["NotExpr"]["expr"])
        return None if truth is None else not truth
    return False if "SomeIn" in literal and _empty(literal["SomeIn"]["collection"]) else None


def _constant(expression: Node) -> bool | None:
    if "Bool" in expression:
        value: bool = expression["Bool"]["value"]
        return value
    if "Membership" in expression:
        return False if _empty(expression["Membership"]["collection"]) else None
    compared = expression.get("BoolExpr")
    if compared is None:
        return None
    left, right = _literal(compared["lhs"]), _literal(compared["rhs"])
    if left is None or right is None:
        return None
    if compared["op"] in ("Eq", "Ne"):
        return (left == right) is (compared["op"] == "Eq")
    order = _ORDERS.get(compared["op"])
    return order(left[1], right[1]) if order is not None and left[0] == right[0] in ("Number", "text") else None


def _empty(collection: Node) -> bool:
    return any(name in collection and not collection[name][items] for name, items in _COLLECTIONS.items())


def _literal(node: Node) -> _Literal | None:
    ((kind, body),) = ((kind, body) for kind, body in node.items() if kind != "span")
    if kind not in _LITERALS:
        return None
    return "text" if kind in _TEXTS else kind, body.get("value")
