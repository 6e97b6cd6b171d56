"""Plain comparisons on arguments that raise a step's risk tier."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from meshflow.plugin import RiskTier
from meshflow_flow.settings import RaiseRule

_MAX_NUMBER_TEXT = 64
_MAX_VALUES = 10_000


class CompiledRule:
    """One rule of ``raise_when``. What cannot be compared counts as a match: doubt raises."""

    __slots__ = ("_matches", "_path", "name", "tier")

    def __init__(self, rule: RaiseRule) -> None:
        self.name = f"rule:{rule.tool}.{rule.argument}"
        self.tier = RiskTier.parse(rule.to)
        self._path = rule.argument.split(".")
        self._matches = _matcher(rule)

    def fires(self, arguments: Any) -> bool:
        """Say whether the rule matches; an argument that is not there does not match."""
        if not isinstance(arguments, Mapping):
            return arguments is not None
        values = _values(arguments, self._path)
        return values is None or any(self._matches(value) for value in values)


def compile_rules(rules: Iterable[RaiseRule]) -> dict[str, tuple[CompiledRule, ...]]:
    """Return the rules by tool, those for every tool under ``*``."""
    grouped: dict[str, list[CompiledRule]] = {}
    for rule in rules:
        grouped.setdefault(rule.tool, []).append(CompiledRule(rule))
    return {tool: tuple(group) for tool, group in grouped.items()}


class _TooMuch(Exception):
    pass


def _values(arguments: Any, path: list[str]) -> list[Any] | None:
    """Return what stands at the path, a list meaning each element; None where there is too much to look at."""
    try:
        found = [arguments]
        for part in path:
            found = [value[part] for value in _flat(found) if isinstance(value, Mapping) and part in value]
        return list(_flat(found))
    except _TooMuch:
        return None


def _flat(values: list[Any]) -> Iterable[Any]:
    """Yield the elements of lists in lists, each in turn; a list that holds itself ends as too much."""
    waiting, seen = list(reversed(values)), 0
    while waiting:
        seen += 1
        if seen > _MAX_VALUES:
            raise _TooMuch
        value = waiting.pop()
        if isinstance(value, (list, tuple)):
            if len(value) > _MAX_VALUES:
                raise _TooMuch
            waiting.extend(reversed(value))
        else:
            yield value


def _matcher(rule: RaiseRule) -> Callable[[Any], bool]:
    if rule.above is not None:
        limit = rule.above
        return lambda value: not _at_most(value, limit)
    if rule.matches_any is not None:
        texts = frozenset(_fold(text) for text in rule.matches_any)
        return lambda value: _is_one_of(value, texts)
    expected = rule.equals
    # True equals 1 in Python, and no operator means that.
    return lambda value: bool(value == expected) and isinstance(value, bool) == isinstance(expected, bool)


def _at_most(value: Any, limit: float) -> bool:
    if isinstance(value, bool):
        return False
    try:
        if isinstance(value, str):
            return len(value) <= _MAX_NUMBER_TEXT and Decimal(value) <= Decimal(str(limit))
        if isinstance(value, Decimal):
            return value <= Decimal(str(limit))
        return isinstance(value, (int, float)) and value <= limit
    except InvalidOperation:
        return False


def _is_one_of(value: Any, texts: frozenset[str]) -> bool:
    if value is None:
        return False
    if isinstance(value, str):
        return _fold(value) in texts
    if not isinstance(value, (int, float, Decimal)):
        return True
    try:
        return _fold(str(value)) in texts
    except ValueError:  # an integer of more digits than Python turns into text
        return True


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()
