"""The tree of a checked expression, read from what the CEL library serialises (cel-spec, cel/expr/checked.proto)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from meshflow.workflow.expressions.wire import fields


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal; ``size`` is its length where it is text or bytes, else 1, and ``text`` the text of a string."""

    size: int = 1
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A variable: one of the workflow's, or one that a macro binds."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """``operand.field``, or ``has(operand.field)``."""

    operand: Tree
    field: str
    test_only: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function or an operator; ``overloads`` are those that the types left open."""

    function: str
    arguments: tuple[Tree, ...]
    overloads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """A list or a map literal."""

    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """What the macros all, exists, exists_one, map and filter become."""

    variable: str
    accumulator: str
    range: Tree
    start: Tree
    condition: Tree
    step: Tree
    result: Tree


Tree: TypeAlias = Constant | Name | Select | Call | Collection | Loop


def read_tree(serialized: bytes) -> Tree:
    """Return the tree of what ``Expression.serialize`` gave; ValueError where that is something else."""
    packed = dict(fields(serialized))  # google.protobuf.Any: a type's address and the message
    references: dict[int, tuple[str, tuple[str, ...]]] = {}
    expression = b""
    for number, value in fields(_bytes(packed.get(2))):
        if number == 2:
            references.update([_reference(_bytes(value))])
        elif number == 4:
            expression = _bytes(value)
    if not expression:
        raise ValueError("no expression in it")
    return _Reader(references).read(expression)


def names(tree: Tree) -> set[str]:
    """Return the workflow's variables that the tree reads, without those that macros bind."""
    found: set[str] = set()
    waiting: list[tuple[Tree, frozenset[str]]] = [(tree, frozenset())]
    while waiting:
        one, bound = waiting.pop()
        if isinstance(one, Name):
            if one.name not in bound:
                found.add(one.name)
        elif isinstance(one, Loop):
            inside = bound | {one.variable, one.accumulator}
            waiting += [(one.range, bound), (one.start, bound)]
            waiting += [(part, inside) for part in (one.condition, one.step, one.result)]
        else:
            waiting += [(part, bound) for part in children(one)]
    return found


def children(tree: Tree) -> Iterator[Tree]:
    """Yield the parts of a tree that is no loop."""
    if isinstance(tree, Select):
        yield tree.operand
    elif isinstance(tree, Call):
        yield from tree.arguments
    elif isinstance(tree, Collection):
        yield from tree.items


class _Reader:
    """Turns messages into trees. The library bounds the depth at 32, so recursion is safe."""

    def __init__(self, references: Mapping[int, tuple[str, tuple[str, ...]]]) -> None:
        self._references = references

    def read(self, data: bytes) -> Tree:
        """Return the tree of one cel.expr.Expr."""
        tree: Tree = Constant()
        identity = 0
        for number, value in fields(data):
            if number == 2 and isinstance(value, int):
                identity = value
            elif number == 3:
                tree = _constant(_bytes(value))
            elif number in _READERS:
                tree = _READERS[number](self, _bytes(value), identity)
        reference = self._references.get(identity)
        if isinstance(tree, Select) and reference is not None and reference[0]:
            return Name(reference[0])  # a dotted name that is declared as one variable
        return tree

    def _name(self, data: bytes, identity: int) -> Tree:
        name = _text(dict(fields(data)).get(1, b""))
        reference = self._references.get(identity)
        return Name(reference[0] if reference is not None and reference[0] else name)

    def _select(self, data: bytes, _: int) -> Tree:
        parts = dict(fields(data))
        return Select(self.read(_bytes(parts.get(1))), _text(parts.get(2, b"")), bool(parts.get(3)))

    def _call(self, data: bytes, identity: int) -> Tree:
        function, arguments = "", []
        for number, value in fields(data):
            if number == 2:
                function = _text(value)
            else:
                arguments.append(self.read(_bytes(value)))
        return Call(function, tuple(arguments), self._references.get(identity, ("", ()))[1])

    def _list(self, data: bytes, _: int) -> Tree:
        return Collection(tuple(self.read(_bytes(value)) for number, value in fields(data) if number == 1))

    def _struct(self, data: bytes, _: int) -> Tree:
        items: list[Tree] = []
        for number, entry in fields(data):
            if number == 2:
                items += [self.read(_bytes(value)) for part, value in fields(_bytes(entry)) if part in (3, 4)]
        return Collection(tuple(items))

    def _loop(self, data: bytes, _: int) -> Tree:
        parts = dict(fields(data))
        read = {number: self.read(_bytes(parts.get(number))) for number in (2, 4, 5, 6, 7)}
        return Loop(_text(parts.get(1, b"")), _text(parts.get(3, b"")), read[2], read[4], read[5], read[6], read[7])


_READERS = {
    4: _Reader._name,
    5: _Reader._select,
    6: _Reader._call,
    7: _Reader._list,
    8: _Reader._struct,
    9: _Reader._loop,
}


def _reference(data: bytes) -> tuple[int, tuple[str, tuple[str, ...]]]:
    entry = dict(fields(data))
    name, overloads = "", []
    for number, value in fields(_bytes(entry.get(2, b""))):
        if number == 1:
            name = _text(value)
        elif number == 3:
            overloads.append(_text(value))
    identity = entry.get(1, 0)
    return (identity if isinstance(identity, int) else 0), (name, tuple(overloads))


def _constant(data: bytes) -> Constant:
    for number, value in fields(data):
        if number == 6:  # the string among the kinds of constants; bytes are 7
            return Constant(max(1, len(_bytes(value))), _text(value))
        if number == 7:
            return Constant(max(1, len(_bytes(value))))
    return Constant()


def _bytes(value: int | bytes | None) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError("a message is missing")


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()
