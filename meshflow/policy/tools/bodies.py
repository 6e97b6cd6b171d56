"""Cut rules into their bodies and conditions, as text that can be put into a module again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshflow.policy.syntax import Node, Rule

_QUOTES = b'"`'
_BLANKS = " \t\r\n;"
_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*"|`[^`]*`)|#[^\n]*')


@dataclass(frozen=True, slots=True)
class Statement:
    """One condition: its text, its line, and the variables that it binds."""

    text: str
    line: int
    binds: tuple[str, ...]
    node: Node


@dataclass(frozen=True, slots=True)
class Body:
    """One way in which a rule can hold. ``value`` is the text of what it then says, ``true`` where it names nothing."""

    rule: Rule
    line: int
    statements: tuple[Statement, ...]
    value: str
    is_else: bool
    collects: bool
    """True for a set or an object that rules add to."""


def bodies_of(rule: Rule, source: bytes) -> Iterator[Body]:
    """Yield the bodies of a rule that is no function and no default; ``source`` is its module's text."""
    if rule.default or rule.function:
        return
    ((kind, head),) = rule.body["head"].items()
    value = _head_value(kind, head, source)
    collects = kind == "Set"
    bodies = rule.body.get("bodies", ())
    if not bodies:
        yield Body(rule, rule.line, (), value, False, collects)
    for body in bodies:
        own = _assigned(body["assign"], source) if body["is_else"] and body["assign"] else value
        line = body["span"]["line"] if body["is_else"] else rule.line
        yield Body(rule, line, tuple(_statements(body["query"], source)), own, body["is_else"], collects)


def _head_value(kind: str, head: Node, source: bytes) -> str:
    """Return what a head says; by the place of its operator, since the parser misplaces where an object begins."""
    if kind == "Set":
        begin = next(iter(head["refr"].values()))["span"]["end"]
        return _between(begin, head["span"]["end"], source, "contains")
    assigned = head.get("assign")
    return _assigned(assigned, source) if assigned else "true"


def _assigned(node: Node, source: bytes) -> str:
    return _between(node["span"]["start"], node["span"]["end"], source, ":=", "=")


def _between(start: int, end: int, source: bytes, *operators: str) -> str:
    text = source[start : _widened(end, end, source)[1]].decode().strip()
    for operator in operators:
        if text.startswith(operator):
            return text.removeprefix(operator).strip()
    return text


def _widened(start: int, end: int, source: bytes) -> tuple[int, int]:
    """Return a span with the quotes that the parser leaves out of a text at its edges."""
    if start and source[start - 1] in _QUOTES:
        start -= 1
    if end < len(source) and source[end] in _QUOTES:
        end += 1
    return start, end


def _statements(query: Node, source: bytes) -> Iterator[Statement]:
    found = query["stmts"]
    if not found:
        return
    starts = [_widened(one["span"]["start"], one["span"]["start"], source)[0] for one in found]
    begin, end = query["span"]["start"], query["span"]["end"]
    end = end - 1 if source[begin : begin + 1] == b"{" else _widened(begin, end, source)[1]
    for one, start, stop in zip(found, starts, [*starts[1:], end], strict=True):
        text = _COMMENT.sub(r"\1", source[start:stop].decode()).rstrip(_BLANKS)
        yield Statement(text, one["span"]["line"], tuple(dict.fromkeys(_bound(one["literal"]))), one)


def _bound(literal: Node) -> Iterator[str]:
    """Yield the variables that a condition gives a value to, those of nested queries left out."""
    if "SomeIn" in literal:
        some = literal["SomeIn"]
        yield from _variables(some["key"])
        yield from _variables(some["value"])
    elif "Expr" in literal:
        expression = literal["Expr"]["expr"]
        if "AssignExpr" in expression:
            yield from _variables(expression["AssignExpr"]["lhs"])


def _variables(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _variables(item)
    elif isinstance(node, dict):
        if "Var" in node and node["Var"]["value"] != "_":
            yield node["Var"]["value"]
        elif "Array" in node:
            yield from _variables(node["Array"]["items"])
