"""Conditions on records: what a manifest writes of a field, compiled once, true, false or not to be known any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

from meshflow.config.problems import Problem, unknown
from meshflow.config.source import SettingPath, shown
from meshflow.facts import Confidentiality, Origin, RiskTier
from meshflow.names import folded_name

Truth: TypeAlias = bool | None
"""None: what would decide it has been erased."""


class _Erased(Enum):
    ERASED = "erased"


ERASED: Final = _Erased.ERASED
"""Stands for a value that was erased, or withheld from the record: neither there nor absent."""


class Fields(Protocol):
    """What a condition is asked of."""

    def value(self, field: str) -> Any:
        """Return a field's value, None where the record has none, or ERASED."""
        ...


Test: TypeAlias = Callable[[Any, Fields], Truth]
_SCALARS = (str, int, float, bool, type(None))
_ORDERS: tuple[tuple[str, ...], ...] = (
    tuple(tier.label for tier in RiskTier),
    tuple(origin.name.lower() for origin in Origin),
    tuple(one.name.lower() for one in Confidentiality),
)
_WORDS = ("not", "at_least", "at_most", "known", "has", "glob", "setting", "setting_folded", "same_as")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a condition may refer to.

    ``known`` returns what is wrong with a field's name, or None. ``settings`` are the pack's, in force; ``named`` its
    named conditions, as written.
    """

    known: Callable[[str], str | None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    named: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Compiled:
    """A condition ready to be asked. ``failing`` names the fields that did not hold."""

    __slots__ = ("_alternatives", "_named", "_never", "_terms")

    def __init__(
        self, terms: tuple[tuple[str, Test], ...], named: tuple[Compiled, ...] = (),
        alternatives: tuple[Compiled, ...] = (), never: tuple[Compiled, ...] = (),
    ) -> None:  # fmt: skip
        self._terms, self._named, self._alternatives, self._never = terms, named, alternatives, never

    def holds(self, record: Fields) -> Truth:
        """Return whether all terms hold; a false one decides, whatever else is unknown."""
        known = True
        for name, test in self._terms:
            truth = _asked(name, test, record)
            if truth is False:
                return False
            known = known and truth is not None
        for one in self._named:
            truth = one.holds(record)
            if truth is False:
                return False
            known = known and truth is not None
        for one in self._never:
            truth = one.holds(record)
            if truth:
                return False
            known = known and truth is not None
        if self._alternatives:
            truth = self._some(record)
            if truth is False:
                return False
            known = known and truth is not None
        return True if known else None

    def _some(self, record: Fields) -> Truth:
        unknown = False
        for one in self._alternatives:
            truth = one.holds(record)
            if truth:
                return True
            unknown = unknown or truth is None
        return None if unknown else False

    def failing(self, record: Fields) -> Iterator[str]:
        """Yield the fields on account of which the condition does not hold, or cannot be decided."""
        for name, test in self._terms:
            if _asked(name, test, record) is not True:
                yield name
        for one in self._named:
            yield from one.failing(record)
        if self._alternatives and self._some(record) is not True:
            for one in self._alternatives:
                yield from one.failing(record)
        for one in self._never:
            if one.holds(record) is not False:
                yield from one.fields()

    def fields(self) -> Iterator[str]:
        """Yield every field that the condition asks of."""
        yield from (name for name, _ in self._terms)
        for one in (*self._named, *self._alternatives, *self._never):
            yield from one.fields()


def compile_condition(
    written: Mapping[str, Any], path: SettingPath, scope: Scope, problems: list[Problem], *, inside: bool = False
) -> Compiled:
    """Return the condition; what is wrong with it is added to ``problems``."""
    terms: list[tuple[str, Test]] = []
    nested: dict[str, list[Compiled]] = {"any": [], "none": []}
    named: list[Compiled] = []
    for key, matcher in written.items():
        place = (*path, key)
        if key == "is":
            for name in matcher if isinstance(matcher, list) else [matcher]:
                if inside or not isinstance(name, str) or name not in scope.named:
                    found = "a named condition may not use another" if inside else _no_name(name, scope.named)
                    problems.append(Problem(place, found))
                else:
                    named.append(compile_condition(scope.named[name], place, scope, problems, inside=True))
        elif key in nested:
            for index, part in enumerate(matcher if isinstance(matcher, list) and matcher else [None]):
                if not isinstance(part, Mapping) or not part:
                    problems.append(Problem(place, "should be a list of conditions"))
                else:
                    nested[key].append(compile_condition(part, (*place, index), scope, problems, inside=inside))
        elif wrong := scope.known(key):
            problems.append(Problem(place, wrong))
        else:
            try:
                terms.append((key, _test(matcher, scope)))
            except _WrongError as error:
                problems.append(Problem(place, str(error)))
    return Compiled(tuple(terms), tuple(named), tuple(nested["any"]), tuple(nested["none"]))


def _no_name(name: Any, named: Mapping[str, Any]) -> str:
    return unknown("condition", name, named) if isinstance(name, str) else "takes the name of a condition, or a list"


class _WrongError(ValueError):
    """Why a matcher cannot be read."""


def _test(matcher: Any, scope: Scope) -> Test:
    if isinstance(matcher, _SCALARS):
        return lambda value, _: _equal(value, matcher)
    if isinstance(matcher, list | tuple):
        if not matcher or not all(isinstance(item, _SCALARS) for item in matcher):
            raise _WrongError("a list holds the single values of which the field must be one")
        return lambda value, _: any(_equal(value, item) for item in matcher)
    if not isinstance(matcher, Mapping) or len(matcher) != 1:
        raise _WrongError(f"should be a value, a list of values, or one of {', '.join(_WORDS)} with what it takes")
    ((word, operand),) = matcher.items()
    if word not in _WORDS:
        raise _WrongError(unknown("comparison", str(word), _WORDS))
    if word == "not":
        inner = _test(operand, scope)
        return lambda value, record: _not(inner(value, record))
    if word.startswith("setting"):
        if operand not in scope.settings:
            raise _WrongError(unknown("setting of the pack", str(operand), scope.settings))
        return _listed(scope.settings[operand], fold=word == "setting_folded")
    if word == "same_as":
        wrong = scope.known(str(operand))
        if wrong:
            raise _WrongError(f"{shown(operand)}: {wrong}")
        return lambda value, record: _same(value, record.value(operand))
    if isinstance(operand, Mapping) and operand.keys() == {"setting"} and word in ("at_least", "at_most"):
        operand = scope.settings.get(operand["setting"])
    return _simple(word, operand)


def _simple(word: str, operand: Any) -> Test:
    if word in ("at_least", "at_most"):
        rank = _ranked(operand)
        if rank is None:
            raise _WrongError(f"{word} takes a number, or a level of risk, origin or confidentiality")
        order, least = rank
        return lambda value, _: _compared(value, order, least, word == "at_least")
    if word == "known":
        if not isinstance(operand, bool):
            raise _WrongError("known takes true or false")
        return lambda value, _: (value is not None and value != "" and value != []) is operand
    wanted = operand if isinstance(operand, list) else [operand]
    if not wanted or not all(isinstance(item, _SCALARS) for item in wanted):
        raise _WrongError(f"{word} takes a value or a list of them")
    return _listed(wanted) if word == "glob" else lambda value, _: _has(value, wanted)


def _listed(patterns: Any, *, fold: bool = False) -> Test:
    """Return the test whether a text, or one of a list, is one of the patterns; ``lookup_*`` is all that start so."""
    texts = [patterns] if isinstance(patterns, str) else [one for one in patterns or () if isinstance(one, str)]
    texts = [folded_name(one) for one in texts] if fold else texts

    def fits(value: Any) -> bool:
        if not isinstance(value, str):
            return False
        value = folded_name(value) if fold else value
        return any(value.startswith(one[:-1]) if one.endswith("*") else value == one for one in texts)

    return lambda value, _: any(map(fits, value)) if isinstance(value, list | tuple) else fits(value)


def _ranked(operand: Any) -> tuple[tuple[str, ...] | None, float] | None:
    if isinstance(operand, bool):
        return None
    if isinstance(operand, int | float):
        return None, operand
    for order in _ORDERS:
        if operand in order:
            return order, order.index(operand)
    return None


def _compared(value: Any, order: tuple[str, ...] | None, bound: float, upwards: bool) -> Truth:
    """Compare; a value that is missing, or none of the order, holds nothing."""
    if order is not None:
        if value not in order:
            return False
        value = order.index(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= bound if upwards else value <= bound


def _asked(field: str, test: Test, record: Fields) -> Truth:
    value = record.value(field)
    return None if value is ERASED else test(value, record)


def _equal(value: Any, wanted: Any) -> bool:
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _has(value: Any, wanted: list[Any]) -> bool:
    """Return whether a list has one of the values; a text is no list of its letters."""
    return isinstance(value, list | tuple) and any(_equal(one, item) for one in value for item in wanted)


def _same(value: Any, other: Any) -> Truth:
    if other is ERASED:
        return None
    return isinstance(value, str) and isinstance(other, str) and folded_name(value) == folded_name(other)


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth
