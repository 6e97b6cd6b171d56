"""Say which rules decided a step, by which conditions and which values.

For every rule body that the entry point reaches, modules get one more rule for each prefix of its conditions. The first
prefix that has no solution names the condition that stopped the body; the last one's solutions are the values it held
with. The embedded engine answers, whatever engine decides at run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from meshflow.errors import ConfigError
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, describe, guarded, modules_of, new_engine
from meshflow.policy.embedded import Engine
from meshflow.policy.encode import encode
from meshflow.policy.engine import MAX_INPUT_BYTES, EntryPoint, PolicyAnswer, PolicyFailure
from meshflow.policy.evaluate import UNDEFINED, evaluate_rule
from meshflow.policy.syntax import Rule, references, rules_of
from meshflow.policy.tools.bodies import Body, Statement, bodies_of
from meshflow.policy.tools.reach import Reach
from meshflow.policy.worker import freed_here

_PREFIX = "meshflow_explain"
_MOST_SOLUTIONS = 8


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a body: whether it held, and what it read, by the name under which it stands there."""

    text: str
    line: int
    held: bool
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """One body of a rule: whether it held, with what values, and if not at which condition it stopped."""

    rule: str
    where: str
    held: bool
    values: tuple[Any, ...]
    conditions: tuple[Condition, ...]
    decides: bool = False
    problem: str = ""

    @property
    def stopped_at(self) -> Condition | None:
        """The condition that did not hold, or None."""
        return next((one for one in self.conditions if not one.held), None)


@dataclass(frozen=True, slots=True)
class Told:
    """The answer at an entry point, and every body that could have had a say, in the bundle's order."""

    entry: EntryPoint
    answer: PolicyAnswer | PolicyFailure
    traces: tuple[Trace, ...]


def explain_decision(bundle: Bundle, entry: EntryPoint, document: Mapping[str, Any]) -> Told:
    """Evaluate an entry point on a document and tell why; ConfigError for a bundle that does not load."""
    encoded = encode(document, MAX_INPUT_BYTES)
    if isinstance(encoded, PolicyFailure):
        return Told(entry, encoded, ())
    with freed_here(), bundle.errors_placed():
        plain = new_engine(bundle)
        analysis = analyse_engine(plain, bundle)
        if entry.rule not in analysis.rules:
            raise ConfigError(f"the bundle has no rule {entry.rule}")
        answer = evaluate_rule(plain, entry.rule, encoded.decode())
        return Told(entry, answer, tuple(_traces(plain, bundle, entry, encoded, answer)))


def _traces(
    plain: Engine, bundle: Bundle, entry: EntryPoint, encoded: bytes, answer: PolicyAnswer | PolicyFailure
) -> Iterator[Trace]:
    modules = modules_of(plain)
    sources = {module["source"]["file"]: module["source"]["contents"] for module in modules}
    rules = [rule for module in modules for rule in rules_of(module)]
    bodies = [
        body
        for rule in Reach(rules).from_rule(entry.rule)
        for body in bodies_of(rule, sources[rule.file].encode())
        if (rule.path != entry.rule or body.statements) and _parses(body)
    ]
    texts = {
        module["source"]["file"]: module["source"]["contents"]
        + "\n\n"
        + "\n".join(
            probe
            for number, body in enumerate(bodies)
            if body.rule.file == module["source"]["file"]
            for probe in _probes(number, body)
        )
        + "\n"
        for module in modules
    }
    probing = _probing_engine(texts, bundle)
    probing.set_input_json(encoded.decode())
    seen = _Seen(orjson.loads(encoded), bundle.data, probing, {rule.path for rule in rules if not rule.function})
    codes = {reason.code for reason in answer.reasons} if isinstance(answer, PolicyAnswer) else set()
    for number, body in enumerate(bodies):
        yield _trace(probing, number, body, seen, codes)


def _parses(body: Body) -> bool:
    """Return whether a body could be cut out of its text; a condition that begins with an object cannot."""
    try:
        Engine().add_policy("cut.rego", "package cut\n\n" + "\n".join(_probes(0, body)))
    except RuntimeError:
        return False
    return True


def _probing_engine(texts: Mapping[str, str], bundle: Bundle) -> Engine:
    engine = Engine()
    engine.set_gather_prints(True)
    for file, text in texts.items():
        guarded(engine.add_policy, file, text, file=file)
    guarded(engine.add_data_json, bundle.data_json.decode(), file="data")
    return engine


def _probes(number: int, body: Body) -> Iterator[str]:
    """Yield the rules that show how far a body comes: one for each prefix, and one for what it says at the end."""
    bound: list[str] = []
    for count, statement in enumerate(body.statements, 1):
        bound += [name for name in statement.binds if name not in bound]
        yield _probe(f"{_PREFIX}_{number}_{count}", _object(bound), body.statements[:count])
    yield _probe(f"{_PREFIX}_{number}_value", body.value, body.statements)


def _object(names: list[str]) -> str:
    return "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"


def _probe(name: str, value: str, statements: tuple[Statement, ...]) -> str:
    if not statements:
        return f"{name} contains {value}"
    lines = "\n".join(statement.text for statement in statements)
    return f"{name} contains {value} if {{\n{lines}\n}}"


class _Seen:
    """What the conditions of a step read: its document, the data, and the values of rules."""

    def __init__(self, document: Any, data: Any, engine: Engine, rules: set[str]) -> None:
        self._roots = {"input": document, "data": data}
        self._engine = engine
        self._rules = rules
        self._values: dict[str, Any] = {}

    def read_by(self, statement: Statement, rule: Rule) -> dict[str, Any]:
        """Return what a condition reads by a plain name, so far as it is there."""
        found: dict[str, Any] = {}
        part = Rule(rule.path, rule.where, statement.node, rule.package, rule.imports)
        for read in references(part):
            name = ".".join(read.path)
            if read.path[0] == "input" and len(read.path) > 1:
                found |= self._look_up(name, read.path)
            elif name in self._rules:
                found |= self._value_of(name)
            elif read.path[0] == "data" and len(read.path) > 1:
                found |= self._look_up(name, read.path)
        return dict(sorted(found.items()))

    def _look_up(self, name: str, path: tuple[str, ...]) -> dict[str, Any]:
        value = self._roots[path[0]]
        for part in path[1:]:
            if not isinstance(value, Mapping) or part not in value:
                return {}
            value = value[part]
        return {name: value}

    def _value_of(self, rule: str) -> dict[str, Any]:
        if rule not in self._values:
            self._values[rule] = _evaluated(self._engine, rule)[0]
        return {rule: self._values[rule]}


def _evaluated(engine: Engine, rule: str) -> tuple[Any, str]:
    try:
        raw = engine.eval_rule_as_json(rule)
        engine.take_prints()
    except RuntimeError as error:
        return None, describe(error)[1]
    return (None if raw == UNDEFINED else orjson.loads(raw)), ""


def _trace(engine: Engine, number: int, body: Body, seen: _Seen, codes: set[str]) -> Trace:
    conditions: list[Condition] = []
    problem = ""
    for count, statement in enumerate(body.statements, 1):
        solutions, problem = _evaluated(engine, f"{body.rule.package}.{_PREFIX}_{number}_{count}")
        held = bool(solutions)
        values = seen.read_by(statement, body.rule)
        if held:
            values |= _bindings(solutions, statement.binds)
        conditions.append(Condition(" ".join(statement.text.split()), statement.line, held, values))
        if not held:
            break
    held = all(one.held for one in conditions)
    values_said: list[Any] = []
    if held:
        said, problem = _evaluated(engine, f"{body.rule.package}.{_PREFIX}_{number}_value")
        values_said = list(said or ())[:_MOST_SOLUTIONS]
        held = bool(said)
    decides = any(isinstance(one, Mapping) and one.get("code") in codes for one in values_said)
    where = f"{body.rule.file}:{body.line}"
    return Trace(body.rule.path, where, held, tuple(values_said), tuple(conditions), decides, problem)


def _bindings(solutions: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what variables were bound to: one value, or a list where there were several solutions."""
    found: dict[str, Any] = {}
    for name in names:
        distinct = {orjson.dumps(one[name], option=orjson.OPT_SORT_KEYS): one[name] for one in solutions}
        values = list(distinct.values())[:_MOST_SOLUTIONS]
        found[name] = values[0] if len(values) == 1 else values
    return found
