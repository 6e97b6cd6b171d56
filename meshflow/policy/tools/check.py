"""``meshflow policy check``: all that can be said of a bundle before a step is decided by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from meshflow.errors import ConfigError
from meshflow.policy.analysis import Problem, problems_of
from meshflow.policy.builtins import builtins_of
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, modules_of, new_engine
from meshflow.policy.engine import ENTRY_POINTS
from meshflow.policy.syntax import Rule, rules_of
from meshflow.policy.tools.dead import undefined_decisions, undefined_reads, unused
from meshflow.policy.tools.facts import wrong_reads
from meshflow.policy.tools.never import strange_values, unreachable
from meshflow.policy.tools.reach import Reach
from meshflow.policy.worker import freed_here

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``policy check`` says: ``error`` fails it, ``warning`` only where asked to."""

    severity: Severity
    kind: str
    where: str
    message: str


def check_bundle(bundle: Bundle, engine: str = "regorus") -> tuple[Finding, ...]:
    """Return all findings, errors first, each with ``file:line``; ``engine`` is whose built-ins count.

    A bundle that was loaded with its tests is checked with them. Blocks while it works.
    """
    with freed_here():
        return tuple(sorted(_findings(bundle, engine), key=lambda one: (one.severity, _place(one.where), one.message)))


def _place(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (where, 0)


def _findings(bundle: Bundle, evaluator: str) -> Iterator[Finding]:
    try:
        embedded = new_engine(bundle)
    except ConfigError as error:
        yield Finding("error", "syntax", error.where, error.problem)
        return
    rules = list(chain.from_iterable(map(rules_of, modules_of(embedded))))
    refused = list(problems_of(rules, builtins_of(evaluator), bundle.data, evaluator))
    yield from _as(refused, "error", "refused")
    if not refused:
        try:
            analyse_engine(embedded, bundle, evaluator)
            if evaluator == "golib":
                from meshflow.policy.golib import new_golib_engine

                new_golib_engine(bundle).close()
        except ConfigError as error:
            yield Finding("error", "compile", error.where, error.problem)
    reach = Reach(rules)
    yield from _as(wrong_reads(reach), "error", "fact")
    yield from _as(_nothing_asked(rules, bundle), "error", "entry_point")
    yield from _as(_rewritten_names(rules), "error", "name")
    yield from _as(unused(reach), "warning", "unused")
    yield from _as(chain(unreachable(rules), strange_values(reach)), "warning", "unreachable")
    undefined = chain(undefined_decisions(rules), undefined_reads(reach, bundle.data))
    yield from _as(undefined, "warning", "undefined")


def _as(problems: Iterator[Problem] | list[Problem], severity: Severity, kind: str) -> Iterator[Finding]:
    for problem in dict.fromkeys(problems):
        yield Finding(severity, kind, problem.where, problem.message)


def _nothing_asked(rules: list[Rule], bundle: Bundle) -> Iterator[Problem]:
    known = [entry.rule for entry in ENTRY_POINTS]
    if not any(rule.path in known for rule in rules):
        yield Problem(bundle.name, f"the bundle has none of the entry points {', '.join(known)}")


def _rewritten_names(rules: list[Rule]) -> Iterator[Problem]:
    """Find what OPA trips over and the embedded engine does not: its own ``in`` is called ``internal.member_2``."""
    for rule in rules:
        if rule.name == "internal":
            yield Problem(rule.where, "no rule may be named internal: OPA would look in it for its own functions")
