"""Read the embedded parser's syntax trees: rules as written, what they call and what they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Node = Mapping[str, Any]

_REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})


@dataclass(slots=True)
class Rule:
    """One rule as written: its full path, its place, and whether it is a function or a default."""

    path: str
    where: str
    body: Node
    package: str
    imports: Mapping[str, str]
    function: bool = False
    default: bool = False

    @property
    def file(self) -> str:
        """The file that holds it."""
        return self.where.rpartition(":")[0]

    @property
    def line(self) -> int:
        """The line on which it begins."""
        return int(self.where.rpartition(":")[2])

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def is_test(self) -> bool:
        """True for what ``policy test`` runs."""
        return self.name.startswith("test_")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the names that it may mean, the nearest first, its place and its arguments."""

    names: tuple[str, ...]
    where: str
    arguments: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """Something that a rule reads: ``("input", "tool")`` or ``("data", "meshflow", "roles")``.

    The path ends at the first part that is computed. ``named`` says that it was written with ``data`` or an import.
    """

    path: tuple[str, ...]
    where: str
    named: bool = True


def rules_of(module: Node) -> Iterator[Rule]:
    """Yield the rules of a module, defaults too, in order."""
    tree = module["ast"]
    package = package_of(module)
    imports = dict(_imports(tree["imports"], module["source"]["contents"].encode()))
    for entry in tree["rules"]:
        ((kind, body),) = entry.items()
        head = body if kind == "Default" else next(iter(body["head"].values()))
        names = path_of(head["refr"], cut=True) or ()
        yield Rule(
            ".".join((package, *names)),
            f"{module['source']['file']}:{body['span']['line']}",
            body,
            package,
            imports,
            function=bool(body["args"]) if kind == "Default" else "Func" in body["head"],
            default=kind == "Default",
        )


def bodies_of(rule: Rule) -> list[Rule]:
    """Return a rule for each of the bodies of one: each has its own variables, and an else its own value."""
    bodies = rule.body["bodies"]
    if len(bodies) < 2:
        return [rule]
    ((kind, head),) = rule.body["head"].items()
    plain = {kind: {**head, "assign": None}}
    return [
        replace(rule, body={"head": plain if one["is_else"] else rule.body["head"], "bodies": [one]}) for one in bodies
    ]


def package_of(module: Node) -> str:
    """Return a module's package as a full path, ``data.meshflow.policy``."""
    return "data." + ".".join(path_of(module["ast"]["package"]["refr"]) or ())


def _imports(entries: list[Node], source: bytes) -> Iterator[tuple[str, str]]:
    for entry in entries:
        path = path_of(entry["refr"])
        alias = entry.get("as")
        if path and path[0] in ("data", "input"):
            yield source[alias["start"] : alias["end"]].decode() if alias else path[-1], ".".join(path)


def path_of(node: Node, *, cut: bool = False) -> tuple[str, ...] | None:
    """Return the names of a plain reference, root first; with ``cut``, those before its first dynamic part."""
    names: list[str] = []
    while True:
        ((kind, body),) = ((key, value) for key, value in node.items() if key != "span")
        if kind == "Var":
            names.append(body["value"])
            return tuple(reversed(names))
        if kind == "RefDot":
            names.append(body["field"][1])
        elif kind == "RefBrack" and "String" in body["index"]:
            names.append(body["index"]["String"]["value"])
        elif kind == "RefBrack" and cut:
            names.clear()
        else:
            return None
        node = body["refr"]


def references(rule: Rule) -> Iterator[Reference]:
    """Yield all that a rule reads of ``input`` and ``data``, with imports resolved.

    A name that is neither an import nor a root stands for a rule of the same package: ``("data", ..., name)``.
    """
    package = tuple(rule.package.split("."))
    stack: list[Any] = [rule.body]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            if not node.keys() & _REFERENCES:
                stack.extend(node.values())
                continue
            names = path_of(node, cut=True)
            if names is not None:
                named = names[0] == "data" or rule.imports.get(names[0], "").startswith("data.")
                yield Reference(_resolved(names, rule, package), f"{rule.file}:{line_of(node)}", named)
                stack.extend(_below(node))
            else:
                stack.extend(node.values())


def _resolved(names: tuple[str, ...], rule: Rule, package: tuple[str, ...]) -> tuple[str, ...]:
    if names[0] in ("input", "data"):
        return names
    imported = rule.imports.get(names[0])
    if imported is not None:
        return (*imported.split("."), *names[1:])
    return (*package, *names)


def line_of(node: Node) -> int:
    """Return the line on which a node begins."""
    line: int = next(iter(node.values()))["span"]["line"]
    return line


def _below(node: Node) -> Iterator[Any]:
    """Yield what is computed inside a reference: the indexes along its chain, and a beginning that is no name."""
    while "Var" not in node:
        body = node.get("RefDot") or node.get("RefBrack")
        if body is None:
            yield node
            return
        if "index" in body:
            yield body["index"]
        node = body["refr"]


def nodes_of(tree: Any) -> Iterator[Node]:
    """Yield every node of a tree, a parent before what it holds."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            yield node
            stack.extend(node.values())


def variables_of(tree: Any) -> Iterator[str]:
    """Yield the names of the variables in a tree."""
    for node in nodes_of(tree):
        var = node.get("Var")
        if isinstance(var, dict) and "value" in var:
            yield var["value"]


def calls_of(rule: Rule) -> Iterator[Call]:
    """Yield the calls in a rule."""
    for node in nodes_of(rule.body):
        call = node.get("Call")
        if isinstance(call, dict) and "fcn" in call:
            yield _call(call, rule, f"{rule.file}:{call['span']['line']}")


def _call(call: Node, rule: Rule, where: str) -> Call:
    path, arguments = path_of(call["fcn"]), tuple(call["params"])
    if path is None:
        return Call(("a computed name",), where, arguments)
    written = ".".join(path)
    imported = rule.imports.get(path[0])
    if imported is not None:
        return Call((".".join((imported, *path[1:])),), where, arguments)
    return Call((f"{rule.package}.{written}", written), where, arguments)
