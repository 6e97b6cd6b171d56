"""Look over compiled Rego: what it defines, what it calls, and what must not be left to evaluation to find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from meshflow.errors import ConfigError
from meshflow.policy.engine import ENTRY_POINTS

Node = Mapping[str, Any]

FORBIDDEN: Mapping[str, str] = {
    "http.send": "it would reach the network",
    "net.lookup_ip_addr": "it would reach the network",
    "opa.runtime": "it shows the host to the policy",
    "time.now_ns": "the same step could not be decided again; use input.time_us",
    "rand.intn": "the same step could not be decided again",
    "uuid.rfc4122": "the same step could not be decided again",
}
"""Functions that no policy may call, and why."""

_REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})
_STATEMENTS = frozenset({"print"})
"""Called like functions, and not in the engine's own list."""


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


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the names that it may mean, the nearest first, and its place."""

    names: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a bundle defines: full paths of rules that are no functions, and of its tests with their places."""

    rules: frozenset[str]
    uses_print: bool
    tests: tuple[tuple[str, str], ...]


def analyse(modules: list[Node], builtins: frozenset[str], data: Mapping[str, Any]) -> Analysis:
    """Check the syntax trees of all modules; ConfigError names file and line.

    Refused: a call of what neither the bundle nor the engine has, a forbidden built-in, functions that call themselves
    (the embedded engine overflows the stack and takes the process along), a rule that reads all of ``data``, two
    defaults of one rule, and data that lies where a rule does (the embedded engine would let the data win).
    """
    rules = [rule for module in modules for rule in _rules(module)]
    functions = {rule.path for rule in rules if rule.function}
    calls: dict[str, set[str]] = {}
    uses_print = False
    for rule in rules:
        _refuse_all_of_data(rule)
        for call in _calls(rule):
            uses_print = uses_print or call.names[-1] == "print"
            target = next((name for name in call.names if name in functions), None)
            if target is None:
                _check_builtin(call, builtins)
            else:
                calls.setdefault(rule.path, set()).add(target)
    _refuse_cycles(calls, rules)
    _refuse_two_defaults(rules)
    _refuse_shadowed(rules, data)
    _refuse_misplaced_answers(rules)
    tests = tuple(
        dict.fromkeys((rule.path, rule.where) for rule in rules if rule.path.rpartition(".")[2].startswith("test_"))
    )
    return Analysis(frozenset(rule.path for rule in rules if not rule.function), uses_print, tests)


def _rules(module: Node) -> Iterator[Rule]:
    tree = module["ast"]
    package = "data." + ".".join(_path(tree["package"]["refr"]) or ())
    imports = dict(_imports(tree["imports"], module["source"]["contents"].encode()))
    for entry in tree["rules"]:
        ((kind, body),) = entry.items()
        head = body if kind == "Default" else next(iter(body["head"].values()))
        path = _path(head["refr"], cut=True) or ()
        yield Rule(
            ".".join((package, *path)),
            f"{module['source']['file']}:{body['span']['line']}",
            body,
            package,
            imports,
            function=bool(body["args"]) if kind == "Default" else "Func" in body["head"],
            default=kind == "Default",
        )


def _imports(entries: list[Node], source: bytes) -> Iterator[tuple[str, str]]:
    for entry in entries:
        path = _path(entry["refr"])
        alias = entry.get("as")
        if path and path[0] in ("data", "input"):
            yield source[alias["start"] : alias["end"]].decode() if alias else path[-1], ".".join(path)


def _path(node: Node, *, cut: bool = False) -> tuple[str, ...] | None:
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


def _refuse_all_of_data(rule: Rule) -> None:
    """Refuse a rule that reads a document which holds its own package: OPA calls that recursion, regorus does not."""
    package = tuple(rule.package.split("."))
    stack: list[Any] = [rule.body]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            path = _path(node, cut=True) if node.keys() & _REFERENCES else None
            if path is not None and path[0] == "data" and path == package[: len(path)]:
                line = next(iter(node.values()))["span"]["line"]
                raise ConfigError(
                    f"{'.'.join(path)} holds this rule too; name the document that is meant",
                    where=f"{rule.where.rpartition(':')[0]}:{line}",
                )
            stack.extend(_below(node) if path is not None else node.values())


def _below(node: Node) -> Iterator[Any]:
    """Yield what is computed inside a reference: the indexes along its chain, not its beginnings."""
    while "Var" not in node:
        body = node.get("RefDot") or node["RefBrack"]
        if "index" in body:
            yield body["index"]
        node = body["refr"]


def _calls(rule: Rule) -> Iterator[Call]:
    stack: list[Any] = [rule.body]
    file = rule.where.rpartition(":")[0]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            call = node.get("Call")
            if isinstance(call, dict) and "fcn" in call:
                yield _call(call, rule, f"{file}:{call['span']['line']}")
            stack.extend(node.values())


def _call(call: Node, rule: Rule, where: str) -> Call:
    path = _path(call["fcn"])
    if path is None:
        return Call(("a computed name",), where)
    written = ".".join(path)
    imported = rule.imports.get(path[0])
    if imported is not None:
        return Call((".".join((imported, *path[1:])),), where)
    return Call((f"{rule.package}.{written}", written), where)


def _check_builtin(call: Call, builtins: frozenset[str]) -> None:
    name = call.names[-1]
    if name in FORBIDDEN:
        raise ConfigError(f"{name} may not be called in a policy: {FORBIDDEN[name]}", where=call.where)
    if name not in builtins and name not in _STATEMENTS:
        raise ConfigError(f"{name} is neither a function of the bundle nor known to the engine", where=call.where)


def _refuse_cycles(calls: Mapping[str, set[str]], rules: list[Rule]) -> None:
    places = {rule.path: rule.where for rule in rules}
    done: set[str] = set()
    for start in sorted(calls):
        trail: list[str] = []
        stack = [(start, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                done.add(trail.pop())
            elif name in trail:
                loop = " calls ".join([*trail[trail.index(name) :], name])
                raise ConfigError(f"functions may not call themselves: {loop}", where=places[name])
            elif name not in done:
                trail.append(name)
                stack.append((name, True))
                stack.extend((target, False) for target in sorted(calls.get(name, ())))


def _refuse_two_defaults(rules: list[Rule]) -> None:
    seen: dict[str, str] = {}
    for rule in rules:
        if rule.default:
            if rule.path in seen:
                raise ConfigError(
                    f"a second default of {rule.path}; the first is at {seen[rule.path]}", where=rule.where
                )
            seen[rule.path] = rule.where


def _refuse_misplaced_answers(rules: list[Rule]) -> None:
    """Refuse what looks like an entry point and would never be asked: a stage without one abstains in silence."""
    known = [entry.rule for entry in ENTRY_POINTS]
    for rule in rules:
        if any(rule.path.startswith(entry + ".") for entry in known):
            raise ConfigError("write the decision as one object, not key by key", where=rule.where)
        parts = rule.path.split(".")
        if len(parts) == 4 and parts[1] == "meshflow" and parts[3] == "decision" and rule.path not in known:
            near = get_close_matches(rule.path, known, 1, 0.8)
            hint = f"; did you mean {near[0]}?" if near else f"; the entry points are {', '.join(known)}"
            raise ConfigError(f"{rule.path} is asked at no stage{hint}", where=rule.where)


def _refuse_shadowed(rules: list[Rule], data: Mapping[str, Any]) -> None:
    for rule in rules:
        value: Any = data
        for name in rule.path.split(".")[1:]:
            if not isinstance(value, Mapping) or name not in value:
                break
            value = value[name]
            if not isinstance(value, Mapping):
                raise ConfigError(f"a data document has a value where the rule {rule.path} is", where=rule.where)
        else:
            raise ConfigError(f"a data document has a value where the rule {rule.path} is", where=rule.where)
