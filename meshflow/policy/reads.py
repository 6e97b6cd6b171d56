"""Which parts of ``input`` rules look at, whatever the step: by name, by a local name for a part, by ``object.get``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product, takewhile
from typing import Any, NamedTuple

from meshflow.policy.syntax import Node, Rule, line_of, nodes_of, path_of, variables_of

Path = tuple[str, ...]
Listed = Mapping[str, Path]
_CHAIN = 8
"""How many names for names of parts are followed."""
_REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})


class Read(NamedTuple):
    """A part of ``input``, by its path below it, and where a rule reads it."""

    path: Path
    where: str


class Names:
    """What the variables of one rule stand for, of those that are declared but once in all of it.

    ``lists`` are the texts that one is taken from: ``some key in ["tenant", "tenant_id"]``. ``parts`` are the parts of
    input that one is a name for: ``who := input.principal``, or the parameter of a function, if ``given`` says so.
    """

    def __init__(self, rule: Rule, given: Mapping[str, Path]) -> None:
        declared: Counter[str | int] = Counter()
        lists: dict[str, Path] = {}
        named: dict[str, Node] = {}
        for node in nodes_of(rule.body):
            declared.update(_declared(node))
            lists.update(_list_of(node))
            assigned = node.get("AssignExpr")
            if isinstance(assigned, dict) and "Var" in assigned["lhs"]:
                named[assigned["lhs"]["Var"]["value"]] = assigned["rhs"]
        once = {one for one in declared if declared[one] == 1 and not declared[len(str(one).encode())]}
        self.lists = {name: texts for name, texts in lists.items() if name in once}
        self.parts = {name: path for name, path in given.items() if name in once}
        self._rule = rule
        for _ in range(_CHAIN):  # one may stand for a part of another, in any order
            known = len(self.parts)
            for name, node in named.items():
                path = self.part(node) if name in once else None
                if path is not None:
                    self.parts[name] = path
            if len(self.parts) == known:
                break

    def part(self, node: Node) -> Path | None:
        """Return the part of input that an expression is, if it is one that can be told."""
        if not node.keys() & _REFERENCES:
            return None
        begin, parts, _ = self.chain(node)
        if begin is None or any(len(one) != 1 for one in parts):
            return None
        return (*begin, *(one[0] for one in parts))

    def chain(self, node: Node) -> tuple[Path | None, list[Path], list[Any]]:
        """Return where below ``input`` a reference begins, what each part can be, and what is computed inside of it.

        None for one that begins elsewhere.
        """
        parts: list[Path] = []
        inner: list[Any] = []
        while "Var" not in node:
            body = node.get("RefDot") or node.get("RefBrack")
            if body is None:
                return None, [], [*inner, node]
            if "field" in body:
                parts.append((body["field"][1],))
            else:
                parts.append(self.texts(body["index"]))
                if not parts[-1]:
                    inner.append(body["index"])
            node = body["refr"]
        parts.reverse()
        return self._root(node["Var"]["value"]), parts, inner

    def _root(self, name: str) -> Path | None:
        if name == "input":
            return ()
        if name in self.parts:
            return self.parts[name]
        imported = tuple(self._rule.imports.get(name, "").split("."))
        return imported[1:] if imported[0] == "input" else None

    def texts(self, index: Node) -> Path:
        """Return what an index can be; nothing where that is not known."""
        if "String" in index:
            return (index["String"]["value"],)
        return self.lists.get(index["Var"]["value"], ()) if "Var" in index else ()


def reads_of(rule: Rule, names: Names) -> Iterator[Read]:
    """Yield what a rule reads, each as far as it is known. The beginnings of a longer read are none of their own.

    A path covers all below it; a computed part ends it.
    """
    stack: list[Any] = [rule.body]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict) and node.keys() & _REFERENCES:
            begin, parts, inner = names.chain(node)
            stack.extend(inner)
            if begin is not None:
                yield from _each(begin, parts, f"{rule.file}:{line_of(node)}")
        elif isinstance(node, dict):
            got = _object_get(node, names)
            if got is not None:
                stack.extend(node["Call"]["params"][1:])
                yield from _each(*got, f"{rule.file}:{node['Call']['span']['line']}")
            else:
                stack.extend(node.values())


def _each(begin: Path, parts: list[Path], where: str) -> Iterator[Read]:
    """Yield every path that the parts can make, up to the first that is not known."""
    known = list(takewhile(bool, parts))
    yield from (Read((*begin, *one), where) for one in product(*known))


def _object_get(node: Node, names: Names) -> tuple[Path, list[Path]] | None:
    """Return what ``object.get(input.x, "name", ...)`` or ``object.get(input, ["x", "name"], ...)`` reads."""
    call = node.get("Call")
    if not isinstance(call, dict) or path_of(call["fcn"]) != ("object", "get") or len(call["params"]) != 3:
        return None
    target, key = call["params"][:2]
    if not target.keys() & _REFERENCES:
        return None
    begin, parts, inner = names.chain(target)
    keys = key["Array"]["items"] if "Array" in key else [key]
    return None if begin is None or inner else (begin, [*parts, *map(names.texts, keys)])


def _list_of(node: Node) -> Iterator[tuple[str, Path]]:
    """Yield a variable that a node takes from a list of texts, with the texts."""
    some = node.get("SomeIn")
    if isinstance(some, dict) and "Var" in some["value"]:
        collection = some["collection"].get("Array") or some["collection"].get("Set")
        items = collection["items"] if collection else ()
        texts = tuple(item["String"]["value"] for item in items if "String" in item)
        if texts and len(texts) == len(items):
            yield some["value"]["Var"]["value"], texts


def _declared(node: Node) -> Iterator[str | int]:
    """Yield the variables that a node declares; the length alone of those that the tree gives by their place alone."""
    some, assigned, function = node.get("SomeIn"), node.get("AssignExpr"), node.get("Func")
    if isinstance(some, dict):
        yield from variables_of([some["key"], some["value"]])
    if isinstance(assigned, dict):
        yield from variables_of(assigned["lhs"])
    if isinstance(function, dict):
        yield from variables_of(function["args"])
    every, names = node.get("Every"), node.get("SomeVars")
    spans = [every["key"], every["value"]] if isinstance(every, dict) else []
    spans += names["vars"] if isinstance(names, dict) else []
    yield from (span["end"] - span["start"] for span in spans if span is not None)
