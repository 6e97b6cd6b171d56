"""Expressions in CEL: compiled and type-checked against what is declared, evaluated within a bound, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import re2  # type: ignore[import-untyped]
from cel_expr_python import cel  # type: ignore[import-untyped]

from meshflow.config.problems import did_you_mean
from meshflow.workflow.expressions.cost import LEAST_USEFUL, affordable, work_of
from meshflow.workflow.expressions.polynomial import Polynomial
from meshflow.workflow.expressions.tree import Call, Constant, Loop, Tree, children, names, read_tree
from meshflow.workflow.plain import NotPlainError, Plain, plain

MAX_EXPRESSION = 4_000
_SHOWN = 80
_SURELY_CHEAP = LEAST_USEFUL
_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.+)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_NODE = re.compile(r"nodes\.([A-Za-z_][A-Za-z0-9_]*)")
TYPES = {
    "any": cel.Type.DYN,
    "text": cel.Type.STRING,
    "whole": cel.Type.INT,
    "number": cel.Type.DOUBLE,
    "truth": cel.Type.BOOL,
}
_TRUTH = ("BOOL", "DYN")


class ExpressionError(ValueError):
    """An expression that cannot be used; ``line`` and ``column`` count from 1 within it, 0 where nobody knows."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        self.line = line
        self.column = column
        super().__init__(message)


class EvaluationError(ValueError):
    """An expression that has no value for the data it was given; ``cause`` is the end of a code."""

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


class Scope:
    """The variables that expressions may read, with their types, under which they are compiled."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)
        self._env = cel.NewEnv(variables={name: TYPES[kind] for name, kind in variables.items()})

    def compile(self, source: str) -> Expression:
        """Return the expression; ExpressionError for one that does not parse, does not type-check or costs too much."""
        if len(source) > MAX_EXPRESSION:
            raise ExpressionError(f"is longer than {MAX_EXPRESSION:,} characters")
        if not source.strip():
            raise ExpressionError("is empty")
        try:
            checked = self._env.compile(source)
            kind = checked.return_type().name()
        except (RuntimeError, UnicodeError) as error:
            raise self._explained(str(error)) from None
        tree = read_tree(checked.serialize())
        _check_patterns(tree)
        work = work_of(tree)
        if not affordable(work, LEAST_USEFUL, LEAST_USEFUL):
            raise ExpressionError(
                f"may take too long: its work grows so fast that a list of {LEAST_USEFUL} would be too much"
            )
        return Expression(source, checked, kind, tree, work)

    def condition(self, source: str) -> Expression:
        """Return an expression that is true or false, as far as its types tell."""
        expression = self.compile(source)
        if expression.kind not in _TRUTH:
            raise ExpressionError(f"must be true or false, and this is {_said(expression.kind)}")
        return expression

    def _explained(self, message: str) -> ExpressionError:
        found = _ERROR.search(message)
        if found is None:
            if "recursion limit" in message:
                return ExpressionError("is nested too deeply")
            return ExpressionError(message.partition(" [")[0].partition(": ")[2][:200] or message[:200])
        line, column, text = max(0, int(found[1])), max(0, int(found[2])), found[3].partition(" (in container")[0]
        undeclared = _UNDECLARED.search(text)
        if undeclared is not None:
            text = self._unknown(undeclared[1])
        elif "Exceeded max recursion depth" in text:
            text = "is nested too deeply"
        return ExpressionError(text.partition(" expecting {")[0][:300], line, column)

    def _unknown(self, name: str) -> str:
        nodes = {found[1] for found in map(_NODE.match, self.variables) if found}
        asked = _NODE.match(name)
        if asked and asked[1] not in nodes:
            return f"unknown node {asked[1]}{did_you_mean(asked[1], nodes)}"
        if asked:
            return f"a node has output, status and runs: nodes.{asked[1]}.output, not {name}"
        roots = sorted({one.partition(".")[0] for one in self.variables})
        if name in roots:
            known = sorted(one for one in self.variables if one.startswith(f"{name}."))[:3]
            return f"{name} is no value of its own; there are {', '.join(known)}"
        return f"unknown name {name}" + (did_you_mean(name, self.variables) or f" (there are {', '.join(roots)})")


class Expression:
    """A checked expression. ``names`` are the variables that it reads, ``work`` bounds what it does with them."""

    __slots__ = ("_checked", "kind", "names", "source", "work")

    def __init__(self, source: str, checked: Any, kind: str, tree: Tree, work: Polynomial | None) -> None:
        self.source = source
        self.kind = kind
        self.names = frozenset(names(tree))
        self.work = work
        self._checked = checked

    def truth(self, data: Mapping[str, Plain]) -> bool:
        """Return whether the condition holds; EvaluationError where that cannot be said."""
        value = self._value(data)
        if not isinstance(value, bool):
            raise EvaluationError("condition_error", f"{self.source!r} is {_said(type(value).__name__)}, not a boolean")
        return value

    def value(self, data: Mapping[str, Plain]) -> Plain:
        """Return the value as plain data; EvaluationError where there is none."""
        try:
            return plain(_portable(self._value(data)))
        except NotPlainError as error:
            raise EvaluationError("expression_error", f"{self.source!r}: {error}") from None

    def _value(self, data: Mapping[str, Plain]) -> Any:
        seen = {name: data[name] for name in self.names if name in data}
        size, parts = sum(one.size for one in seen.values()), sum(one.parts for one in seen.values())
        if size > _SURELY_CHEAP and not affordable(self.work, size, parts):
            raise EvaluationError(
                "expression_too_costly",
                f"{self.source!r} would do too much work on {size:,} characters in {parts:,} parts; give it less",
            )
        try:
            found = self._checked.eval(data={name: one.value for name, one in seen.items()})
            kind, value = found.type().name(), found.plain_value()
        except RuntimeError as error:
            raise EvaluationError("expression_error", f"{self.source!r}: {_reason(str(error))}") from None
        if kind in ("ERROR", "UNKNOWN"):
            raise EvaluationError("expression_error", f"{self.source!r}: {_reason(str(value))}")
        return value


def about(source: str, message: str) -> str:
    """Return what is said of an expression, with the expression before it, cut where it is long."""
    text = " ".join(source.split())
    joined = message if message.startswith(("is ", "may ", "must ", "has ")) else f": {message}"
    return f"{text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'!r}{'' if joined[0] == ':' else ' '}{joined}"


def _check_patterns(tree: Tree) -> None:
    """Refuse a pattern that is written out and does not compile, before a run comes to it."""
    waiting: list[Tree] = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Call) and one.function == "matches":
            pattern = one.arguments[-1]
            if isinstance(pattern, Constant) and pattern.text is not None:
                try:
                    re2.compile(pattern.text, _QUIET)
                except re2.error as error:
                    raise ExpressionError(f"has a pattern that is none: {_decoded(error)}") from None
        if isinstance(one, Loop):
            waiting += (one.range, one.start, one.condition, one.step, one.result)
        else:
            waiting += children(one)


def _decoded(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _quiet() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


_QUIET = _quiet()


def _portable(value: Any) -> Any:
    """Return what CEL has and JSON has not in the form that CEL's own ``string`` gives it."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return value


def _reason(text: str) -> str:
    """Return the library's words without the names of its error classes."""
    return re.sub(r"^[A-Z_]+: |\s*\[[A-Z_]+\]$", "", text.strip())[:300] or "has no value"


def _said(kind: str) -> str:
    return kind.lower().replace("<dyn>", "").replace("_type", "")
