"""Bound what an expression can cost before it runs: given so much data, may its work pass the budget?

The library stops an expression after 10,000 rounds of its macros, but not one that doubles a text in each of them, and
evaluation holds the interpreter's lock. So each expression gets, once and at load, a polynomial that bounds its work in
the size of the data and in the number of their parts. One unit is about a nanosecond.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from meshflow.workflow.expressions import polynomial as poly
from meshflow.workflow.expressions.polynomial import Polynomial
from meshflow.workflow.expressions.tree import Call, Collection, Constant, Loop, Name, Select, Tree

BUDGET = 200_000_000
LEAST_USEFUL = 200
_SIZE, _PARTS = "size", "parts"
_CONVERTED = poly.constant(32)  # characters that a number, a time or a boolean has as text
# Measured: handing one part of the data to the library, and appending to a list of macros, which is copied each time.
_HANDED, _APPENDED = poly.constant(200), poly.constant(32)
_ONE = poly.constant(1)
# Everything else may give back what it was given, and counts as if it did.
_SMALL = frozenset({
    "_&&_", "_||_", "!_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "_-_", "_*_", "_/_", "_%_", "-_",
    "@not_strictly_false", "size", "int", "uint", "double", "bool", "startsWith", "endsWith", "contains", "matches",
    "timestamp", "duration", "type",
})  # fmt: skip
# What comparing each place of the one with the other takes: a pattern's automaton, and a run of equal characters.
_PRODUCTS = {"matches": poly.constant(1), "contains": poly.constant(1 / 32)}
_GROWING = frozenset({"add_string", "add_bytes", "add_list"})


class Bound(NamedTuple):
    """Bounds of one value: its characters and parts, its parts alone, and the work to have it."""

    size: Polynomial
    parts: Polynomial
    work: Polynomial


_NUMBER = Bound(_ONE, _ONE, _ONE)


def work_of(tree: Tree) -> Polynomial | None:
    """Return a bound of all work, in ``size`` and ``parts`` of the data; None for one too steep to have any."""
    try:
        bound = _Bounds().of(tree, {})
        handed = poly.add(poly.multiply(_HANDED, poly.variable(_PARTS)), poly.variable(_SIZE))
        return poly.add(bound.size, bound.work, handed)
    except poly.TooSteepError:
        return None


def affordable(work: Polynomial | None, size: int, parts: int) -> bool:
    """Say whether the work on data of a size stays within the budget."""
    return work is not None and poly.value_at(work, {_SIZE: size, _PARTS: parts}) <= BUDGET


class _Bounds:
    """Walks a tree; names that macros bind have bounds of their own."""

    def __init__(self) -> None:
        self._fresh = count()

    def of(self, tree: Tree, bound: dict[str, Bound]) -> Bound:
        if isinstance(tree, Constant):
            return Bound(poly.constant(tree.size), _ONE, _ONE)
        if isinstance(tree, Name):
            return bound.get(tree.name) or Bound(poly.variable(_SIZE), poly.variable(_PARTS), _ONE)
        if isinstance(tree, Select):
            operand = self.of(tree.operand, bound)
            work = poly.add(operand.work, _ONE)
            return _NUMBER._replace(work=work) if tree.test_only else operand._replace(work=work)
        if isinstance(tree, Collection):
            return _together([self.of(item, bound) for item in tree.items], _ONE)
        return self._loop(tree, bound) if isinstance(tree, Loop) else self._call(tree, bound)

    def _call(self, tree: Call, bound: dict[str, Bound]) -> Bound:
        given = [self.of(argument, bound) for argument in tree.arguments]
        whole = _together(given, _CONVERTED)
        work = whole.work
        if tree.function == "_?_:_":
            return Bound(poly.either(given[1].size, given[2].size), poly.either(given[1].parts, given[2].parts), work)
        if tree.function in _PRODUCTS and len(given) == 2:
            product = poly.multiply(_PRODUCTS[tree.function], poly.multiply(given[0].size, given[1].size))
            return _NUMBER._replace(work=poly.add(work, given[0].size, given[1].size, product))
        if tree.function == "_+_":
            if tree.overloads and _GROWING.isdisjoint(tree.overloads):
                return _NUMBER._replace(work=work)
            if _is_accumulator(tree.arguments[0]):
                return whole  # what appending costs is counted with the rounds
        work = poly.add(work, *(one.size for one in given))
        return _NUMBER._replace(work=work) if tree.function in _SMALL else whole._replace(work=work)

    def _loop(self, tree: Loop, bound: dict[str, Bound]) -> Bound:
        source, start = self.of(tree.range, bound), self.of(tree.start, bound)
        number = next(self._fresh)
        size, parts, so_far = f"size{number}", f"parts{number}", f"so far{number}"
        element = Bound(poly.variable(size), poly.variable(parts), _ONE)
        gathered = Bound(poly.variable(so_far), poly.variable(so_far), _ONE)
        inside = {**bound, tree.variable: element, tree.accumulator: gathered}
        step, condition = self.of(tree.step, inside), self.of(tree.condition, inside)
        totals = {size: source.size, parts: source.parts}

        def all_rounds(once: Polynomial) -> Polynomial:
            # What a macro adds in a round does not depend on what it has gathered so far; nor does a round's work.
            return poly.summed(poly.without(once, so_far), totals, source.parts)

        result = Bound(poly.add(start.size, all_rounds(step.size)), poly.add(start.parts, all_rounds(step.parts)), _ONE)
        work = poly.add(source.work, start.work, all_rounds(poly.add(step.work, condition.work)))
        if isinstance(tree.start, Collection):
            work = poly.add(work, poly.multiply(_APPENDED, poly.multiply(source.parts, source.parts)))
        final = self.of(tree.result, {**bound, tree.accumulator: result})
        return final._replace(work=poly.add(work, final.work))


def _together(bounds: list[Bound], more: Polynomial) -> Bound:
    return Bound(
        poly.add(more, *(one.size for one in bounds)),
        poly.add(_ONE, *(one.parts for one in bounds)),
        poly.add(_ONE, *(one.work for one in bounds)),
    )


def _is_accumulator(tree: Tree) -> bool:
    return isinstance(tree, Name) and tree.name.startswith("@")
