"""Move a bundle into a namespace of its own, so that a server can hold several versions and never a mixture.

The namespace is made of the bundle's digest. Every question names it, so an answer can only come from that bundle.
Questions go to one more module, the seal: it is put there last, so a bundle that is there in part answers nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshflow.errors import ConfigError
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import modules_of, new_engine
from meshflow.policy.engine import ENTRY_POINTS
from meshflow.policy.syntax import Node, calls_of, nodes_of, path_of, rules_of
from meshflow.policy.worker import freed_here


@dataclass(frozen=True, slots=True)
class Placed:
    """A bundle as a server is given it: modules by id in the order in which they can be compiled, and data."""

    namespace: str
    modules: dict[str, str]
    data: Mapping[str, Any]

    @property
    def seal(self) -> str:
        """The id of the module that is put there last and taken away first."""
        return next(reversed(self.modules))


def namespace_of(digest: str) -> str:
    """Return the name under which a bundle lives on a server."""
    return f"meshflow_{digest[:32]}"


def question_of(entry_point: str, digest: str) -> str:
    """Return the path that is asked for an entry point."""
    return f"{namespace_of(digest)}/seal/{_answer_name(entry_point)}"


def _answer_name(entry_point: str) -> str:
    return entry_point.removeprefix("data.").replace(".", "_")


def place_in_namespace(bundle: Bundle) -> Placed:
    """Return the bundle's modules, with packages and references to ``data`` moved, and the seal behind them."""
    namespace = namespace_of(bundle.digest)
    with freed_here(), bundle.errors_placed():
        modules = modules_of(new_engine(bundle))
    texts = {module["source"]["file"]: _moved(module, namespace) for module in modules}
    ordered = {f"{namespace}/{name}": texts[name] for name in _in_order(modules)}
    defined = {rule.path for module in modules for rule in rules_of(module)}
    lines = [f"package {namespace}.seal", ""]
    lines += [
        f"{_answer_name(entry.rule)} := data.{namespace}.{entry.rule.removeprefix('data.')}"
        for entry in ENTRY_POINTS
        if entry.rule in defined
    ]
    ordered[f"{namespace}/seal.rego"] = "\n".join(lines) + "\n"
    return Placed(namespace, ordered, bundle.data)


def _moved(module: Node, namespace: str) -> str:
    """Return a module's text with ``namespace`` in its package and in every reference that begins with ``data``."""
    source = module["source"]["contents"].encode()
    tree = module["ast"]
    places = {_root(tree["package"]["refr"])["span"]["start"]: f"{namespace}.".encode()}
    for entry in tree["imports"]:
        if path_of(entry["refr"]) == ("data",):
            raise ConfigError("import a document below data", where=f"{module['source']['file']}:1")
    for var in _variables([tree["imports"], tree["rules"]]):
        if var["value"] == "data":
            places[var["span"]["end"]] = f".{namespace}".encode()
    parts: list[bytes] = []
    done = 0
    for at in sorted(places):
        parts += [source[done:at], places[at]]
        done = at
    return b"".join([*parts, source[done:]]).decode()


def _root(node: Node) -> Node:
    while "Var" not in node:
        node = (node.get("RefDot") or node["RefBrack"])["refr"]
    root: Node = node["Var"]
    return root


def _variables(tree: Any) -> Iterator[Node]:
    for node in nodes_of(tree):
        var = node.get("Var")
        if isinstance(var, dict) and "value" in var:
            yield var


def _in_order(modules: list[Node]) -> list[str]:
    """Return file names so that each comes behind those whose functions it calls, as a server compiles one by one."""
    rules = {module["source"]["file"]: list(rules_of(module)) for module in modules}
    homes: dict[str, set[str]] = {}
    for file, own in rules.items():
        for rule in own:
            if rule.function:
                homes.setdefault(rule.path, set()).add(file)
    needs = {
        file: {home for rule in own for call in calls_of(rule) for name in call.names for home in homes.get(name, ())}
        - {file}
        for file, own in rules.items()
    }
    ordered: list[str] = []
    while needs:
        ready = sorted(file for file, wanted in needs.items() if wanted <= set(ordered))
        if not ready:
            raise ConfigError(
                f"the files {', '.join(sorted(needs))} call each other's functions, so a server cannot take them one "
                "by one; put them into one file, or let the server load the bundle itself (server.bundle: check)",
                path="plugins.rego.server.bundle",
            )
        ordered += ready
        for file in ready:
            del needs[file]
    return ordered
