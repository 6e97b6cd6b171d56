"""Look over compiled Rego: what it defines, what it calls, and what must not be left to evaluation to find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from meshflow.errors import ConfigError
from meshflow.policy.engine import ENTRY_POINTS
from meshflow.policy.syntax import Call, Node, Rule, calls_of, references, rules_of

FORBIDDEN: Mapping[str, str] = {
    "http.send": "it would reach the network",
    "net.lookup_ip_addr": "it would reach the network",
    "opa.runtime": "it shows the host to the policy",
    "time.now_ns": "the same step could not be decided again; use input.time_us",
    "rand.intn": "the same step could not be decided again",
    "uuid.rfc4122": "the same step could not be decided again",
}
"""Functions that no policy may call, and why."""

_STATEMENTS = frozenset({"print"})
"""Called like functions, and not in the engine's own list."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a bundle, and where: ``file:line``."""

    where: str
    message: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a bundle defines: full paths of rules that are no functions, and of its tests with their places."""

    rules: frozenset[str]
    uses_print: bool
    tests: tuple[tuple[str, str], ...]


def analyse(modules: list[Node], builtins: frozenset[str], data: Mapping[str, Any], engine: str) -> Analysis:
    """Check the syntax trees of all modules; ConfigError names file and line of the first problem."""
    rules = [rule for module in modules for rule in rules_of(module)]
    for problem in problems_of(rules, builtins, data, engine):
        raise ConfigError(problem.message, where=problem.where)
    tests = tuple(dict.fromkeys((rule.path, rule.where) for rule in rules if rule.is_test))
    uses_print = any(call.names[-1] == "print" for rule in rules for call in calls_of(rule))
    return Analysis(frozenset(rule.path for rule in rules if not rule.function), uses_print, tests)


def problems_of(rules: list[Rule], builtins: frozenset[str], data: Mapping[str, Any], engine: str) -> Iterator[Problem]:
    """Yield what no engine is given to evaluate.

    Refused: a call of what neither the bundle nor the engine has, a forbidden built-in, functions that call themselves
    (the embedded engine overflows the stack and takes the process along), a rule that reads all of ``data``, two
    defaults of one rule, and data that lies where a rule does (the embedded engine would let the data win).
    """
    functions = {rule.path for rule in rules if rule.function}
    calls: dict[str, set[str]] = {}
    for rule in rules:
        yield from _all_of_data(rule)
        for call in calls_of(rule):
            target = next((name for name in call.names if name in functions), None)
            if target is None:
                yield from _unknown_call(call, builtins, engine)
            else:
                calls.setdefault(rule.path, set()).add(target)
    yield from _cycles(calls, rules)
    yield from _two_defaults(rules)
    yield from _shadowed(rules, data)
    yield from _misplaced_answers(rules)


def _all_of_data(rule: Rule) -> Iterator[Problem]:
    """Find reads of a document that holds the rule's own package: OPA calls that recursion, regorus does not."""
    package = tuple(rule.package.split("."))
    for read in references(rule):
        if read.path[0] == "data" and read.path == package[: len(read.path)]:
            yield Problem(read.where, f"{'.'.join(read.path)} holds this rule too; name the document that is meant")


def _unknown_call(call: Call, builtins: frozenset[str], engine: str) -> Iterator[Problem]:
    name = call.names[-1]
    if name in FORBIDDEN:
        yield Problem(call.where, f"{name} may not be called in a policy: {FORBIDDEN[name]}")
    elif name not in builtins and name not in _STATEMENTS:
        yield Problem(call.where, f"{name} is neither a function of the bundle nor known to the engine {engine}")


def _cycles(calls: Mapping[str, set[str]], rules: list[Rule]) -> Iterator[Problem]:
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
                yield Problem(places[name], f"functions may not call themselves: {loop}")
            elif name not in done:
                trail.append(name)
                stack.append((name, True))
                stack.extend((target, False) for target in sorted(calls.get(name, ())))


def _two_defaults(rules: list[Rule]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for rule in rules:
        if rule.default:
            if rule.path in seen:
                yield Problem(rule.where, f"a second default of {rule.path}; the first is at {seen[rule.path]}")
            seen[rule.path] = rule.where


def _misplaced_answers(rules: list[Rule]) -> Iterator[Problem]:
    """Find what looks like an entry point and would never be asked: a stage without one abstains in silence."""
    known = [entry.rule for entry in ENTRY_POINTS]
    for rule in rules:
        if any(rule.path.startswith(entry + ".") for entry in known):
            yield Problem(rule.where, "write the decision as one object, not key by key")
        parts = rule.path.split(".")
        if len(parts) == 4 and parts[1] == "meshflow" and parts[3] == "decision" and rule.path not in known:
            near = get_close_matches(rule.path, known, 1, 0.8)
            hint = f"; did you mean {near[0]}?" if near else f"; the entry points are {', '.join(known)}"
            yield Problem(rule.where, f"{rule.path} is asked at no stage{hint}")


def _shadowed(rules: list[Rule], data: Mapping[str, Any]) -> Iterator[Problem]:
    for rule in rules:
        value: Any = data
        for name in rule.path.split(".")[1:]:
            if not isinstance(value, Mapping) or name not in value:
                break
            value = value[name]
            if not isinstance(value, Mapping):
                yield Problem(rule.where, f"a data document has a value where the rule {rule.path} is")
                break
        else:
            yield Problem(rule.where, f"a data document has a value where the rule {rule.path} is")
