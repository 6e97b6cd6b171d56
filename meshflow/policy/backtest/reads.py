"""Which parts of ``input`` a bundle's entry point can look at, whatever the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product, takewhile
from typing import Any

from meshflow.policy.syntax import Node, Rule, nodes_of, path_of, variables_of
from meshflow.policy.tools.reach import Reach

Path = tuple[str, ...]
Listed = Mapping[str, Path]
_REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})


def input_reads(reach: Reach, entry_point: str) -> frozenset[Path]:
    """Return the paths below ``input`` that rules at an entry point read; ``()`` stands for all of it.

    A path covers all below it. A computed part ends a path, unless the rule lists what it can be:
    ``some key in ["tenant", "tenant_id"]`` before ``input.arguments[key]`` reads two fields, not all arguments.
    """
    found: set[Path] = set()
    for rule in reach.from_rule(entry_point):
        found.update(_reads(rule.body, rule, _listed(rule)))
    return _shortest(found)


def _listed(rule: Rule) -> Listed:
    """Return the variables that a rule takes from a list of texts, each declared but once in all of the rule."""
    found: dict[str, Path] = {}
    declared: Counter[str | int] = Counter()
    for node in nodes_of(rule.body):
        declared.update(_declared(node))
        some = node.get("SomeIn")
        if isinstance(some, dict) and "Var" in some["value"]:
            collection = some["collection"].get("Array") or some["collection"].get("Set")
            items = collection["items"] if collection else ()
            texts = tuple(item["String"]["value"] for item in items if "String" in item)
            if texts and len(texts) == len(items):
                found[some["value"]["Var"]["value"]] = texts
    return {name: texts for name, texts in found.items() if declared[name] == 1 and not declared[len(name.encode())]}


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


def _reads(tree: Any, rule: Rule, listed: Listed) -> Iterator[Path]:
    """Yield the reads of a tree, each as far as it is known. The beginnings of a longer read are none of their own."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict) and node.keys() & _REFERENCES:
            begin, parts, inner = _chain(node, rule, listed)
            stack.extend(inner)
            if begin is not None:
                yield from _paths(begin, parts)
        elif isinstance(node, dict):
            got = _object_get(node, rule, listed)
            if got is not None:
                stack.extend(node["Call"]["params"][1:])
                yield from _paths(*got)
            else:
                stack.extend(node.values())


def _paths(begin: Path, parts: list[Path]) -> Iterator[Path]:
    """Yield every path that the parts can make, up to the first that is not known."""
    known = list(takewhile(bool, parts))
    yield from ((*begin, *one) for one in product(*known))


def _object_get(node: Node, rule: Rule, listed: Listed) -> tuple[Path, list[Path]] | None:
    """Return what ``object.get(input.x, "name", ...)`` reads; None for any other call."""
    call = node.get("Call")
    if not isinstance(call, dict) or path_of(call["fcn"]) != ("object", "get") or len(call["params"]) != 3:
        return None
    target, key = call["params"][:2]
    if not target.keys() & _REFERENCES:
        return None
    begin, parts, inner = _chain(target, rule, listed)
    return None if begin is None or inner else (begin, [*parts, _names(key, listed)])


def _names(index: Node, listed: Listed) -> Path:
    """Return what an index can be; nothing where that is not known."""
    if "String" in index:
        return (index["String"]["value"],)
    return listed.get(index["Var"]["value"], ()) if "Var" in index else ()


def _chain(node: Node, rule: Rule, listed: Listed) -> tuple[Path | None, list[Path], list[Any]]:
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
            parts.append(_names(body["index"], listed))
            if not parts[-1]:
                inner.append(body["index"])
        node = body["refr"]
    root = node["Var"]["value"]
    begin = ("input",) if root == "input" else tuple(rule.imports.get(root, "").split("."))
    parts.reverse()
    return (begin[1:] if begin[0] == "input" else None), parts, inner


def _shortest(paths: set[Path]) -> frozenset[Path]:
    return frozenset(path for path in paths if not any(path[:end] in paths for end in range(len(path))))
