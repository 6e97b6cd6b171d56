"""Bound what an expression can cost before it runs: how much data may it see, so that its work stays within a budget?

The library stops an expression after 10,000 rounds of its macros, but not one that doubles a text in each of them.
So each expression gets, once and at load, the largest data under which every step of it together stays within
``BUDGET``: characters looked at or copied, and elements visited. Data beyond that are refused when it is evaluated.
"""

from __future__ import annotations

from itertools import count

from meshflow.workflow.expressions import polynomial as poly
from meshflow.workflow.expressions.polynomial import Polynomial
from meshflow.workflow.expressions.tree import Call, Collection, Constant, Loop, Name, Select, Tree

BUDGET = 100_000_000
LEAST_USEFUL = 1_000
_MOST = 2**40
_DATA = "data"
_CONVERTED = 32  # characters that a number, a time or a boolean has as text
_ONE = poly.constant(1)
# Everything else may give back what it was given, and counts as if it did.
_SMALL = frozenset({
    "_&&_", "_||_", "!_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "_-_", "_*_", "_/_", "_%_", "-_",
    "@not_strictly_false", "size", "int", "uint", "double", "bool", "startsWith", "endsWith", "contains", "matches",
    "timestamp", "duration", "type",
})  # fmt: skip
_PRODUCTS = frozenset({"matches", "contains"})
_GROWING = frozenset({"add_string", "add_bytes", "add_list"})


def data_limit(tree: Tree) -> int:
    """Return the largest size of data for which the tree stays within the budget; 0 where there is none."""
    try:
        size, work = _Bounds().of(tree, {})
        bound = poly.add(size, work)
    except poly.TooSteepError:
        return 0
    low, high = 0, _MOST
    while low < high:
        middle = (low + high + 1) // 2
        if poly.value_at(bound, middle) <= BUDGET:
            low = middle
        else:
            high = middle - 1
    return low


class _Bounds:
    """Walks a tree and returns bounds of the size of its value and of the work that it takes."""

    def __init__(self) -> None:
        self._fresh = count()

    def of(self, tree: Tree, bound: dict[str, Polynomial]) -> tuple[Polynomial, Polynomial]:
        if isinstance(tree, Constant):
            return poly.constant(tree.size), _ONE
        if isinstance(tree, Name):
            return bound.get(tree.name, poly.variable(_DATA)), _ONE
        if isinstance(tree, Select):
            size, work = self.of(tree.operand, bound)
            return (_ONE if tree.test_only else size), poly.add(work, _ONE)
        if isinstance(tree, Collection):
            parts = [self.of(item, bound) for item in tree.items]
            size = poly.add(_ONE, *(size for size, _ in parts))
            return size, poly.add(_ONE, *(work for _, work in parts))
        return self._loop(tree, bound) if isinstance(tree, Loop) else self._call(tree, bound)

    def _call(self, tree: Call, bound: dict[str, Polynomial]) -> tuple[Polynomial, Polynomial]:
        parts = [self.of(argument, bound) for argument in tree.arguments]
        sizes = [size for size, _ in parts]
        work = poly.add(_ONE, *(work for _, work in parts))
        if tree.function == "_?_:_":
            return poly.either(sizes[1], sizes[2]), work
        if tree.function in _PRODUCTS and len(sizes) == 2:
            return _ONE, poly.add(work, poly.multiply(*sizes))
        if tree.function == "_+_" and tree.overloads and _GROWING.isdisjoint(tree.overloads):
            return _ONE, work
        read = sizes
        if tree.function == "_+_" and _is_accumulator(tree.arguments[0]):
            read = sizes[1:]  # a macro appends to its list in place
        work = poly.add(work, *read)
        if tree.function in _SMALL:
            return _ONE, work
        return poly.add(poly.constant(0 if tree.function == "_+_" else _CONVERTED), *sizes), work

    def _loop(self, tree: Loop, bound: dict[str, Polynomial]) -> tuple[Polynomial, Polynomial]:
        size, work = self.of(tree.range, bound)
        start, start_work = self.of(tree.start, bound)
        element, so_far = (f"{what}{next(self._fresh)}" for what in ("element", "result"))
        inside = {**bound, tree.variable: poly.variable(element), tree.accumulator: poly.variable(so_far)}
        grown, step_work = self.of(tree.step, inside)
        _, condition_work = self.of(tree.condition, inside)
        once = poly.add(step_work, condition_work)
        # What a macro adds in a round does not depend on what it has gathered so far; nor does the work of a round.
        result = poly.add(start, poly.summed(poly.without(grown, so_far), element, size))
        rounds = poly.summed(poly.without(once, so_far), element, size)
        final, final_work = self.of(tree.result, {**bound, tree.accumulator: result})
        return final, poly.add(work, start_work, rounds, final_work)


def _is_accumulator(tree: Tree) -> bool:
    return isinstance(tree, Name) and tree.name.startswith("@")
