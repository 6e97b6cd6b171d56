"""Run the ``test_*`` rules of a bundle, as ``opa test`` would, and tell which lines they reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import perf_counter_ns

import orjson

from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, describe, modules_of, new_engine
from meshflow.policy.embedded import Engine, EngineCrashError
from meshflow.policy.evaluate import UNDEFINED
from meshflow.policy.syntax import Node, rules_of
from meshflow.policy.worker import freed_here

_SHOWN = 200


@dataclass(frozen=True, slots=True)
class RegoTest:
    """One test rule and how it went; ``problem`` is empty where it passed. ``prints`` is what its rules printed."""

    rule: str
    where: str
    problem: str = ""
    elapsed_ns: int = 0
    prints: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when the rule was true."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """The lines of one file that tests reached, and those that they could have."""

    path: str
    covered: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def percent(self) -> float:
        """How much was reached, of 100; all of a file without rules."""
        total = len(self.covered) + len(self.missed)
        return 100 * len(self.covered) / total if total else 100.0


@dataclass(frozen=True, slots=True)
class TestRun:
    """All tests of a bundle, and the coverage of its files that are not tests."""

    __test__ = False  # not one of ours

    tests: tuple[RegoTest, ...]
    files: tuple[FileCoverage, ...]

    @property
    def passed(self) -> bool:
        """True where there are tests and all passed."""
        return bool(self.tests) and all(test.passed for test in self.tests)

    @property
    def percent(self) -> float:
        """How many lines of all files were reached, of 100."""
        covered = sum(len(one.covered) for one in self.files)
        total = covered + sum(len(one.missed) for one in self.files)
        return 100 * covered / total if total else 100.0


def run_rego_tests(bundle: Bundle) -> tuple[RegoTest, ...]:
    """Evaluate each test rule of a bundle that was loaded with ``tests=True``. Anything but true fails.

    Blocks while it runs, and the engine lives and dies on the calling thread.
    """
    return _run(bundle, None, coverage=False).tests


def run_with_coverage(bundle: Bundle, only: str | None = None) -> TestRun:
    """Do the same for the tests whose full name has the pattern ``only`` in it, and count the lines they reach."""
    return _run(bundle, only, coverage=True)


def _run(bundle: Bundle, only: str | None, *, coverage: bool) -> TestRun:
    wanted = re.compile(only or "")
    with freed_here():
        with bundle.errors_placed():
            engine = new_engine(bundle)
            analysis = analyse_engine(engine, bundle)
        engine.set_enable_coverage(coverage)
        tests = []
        for rule, where in analysis.tests:
            if wanted.search(rule):
                try:
                    tests.append(_test(engine, rule, where))
                except EngineCrashError as error:
                    tests.append(RegoTest(rule, where, str(error)))
                    engine = new_engine(bundle)  # the lines that earlier tests reached are lost with the old one
                    engine.set_enable_coverage(coverage)
        files = _coverage(engine) if coverage else ()
    return TestRun(tuple(tests), files)


def _test(engine: Engine, rule: str, where: str) -> RegoTest:
    engine.take_prints()
    begun = perf_counter_ns()
    try:
        raw = engine.eval_rule_as_json(rule)
    except EngineCrashError:
        raise
    except RuntimeError as error:
        place, message = describe(error)
        problem = f"{place}: {message}" if place else message
    else:
        shown = "undefined" if raw == UNDEFINED else raw
        problem = "" if raw == "true" else f"is {shown[:_SHOWN]}, not true"
    elapsed = perf_counter_ns() - begun
    return RegoTest(rule, where, problem, elapsed, tuple(engine.take_prints()))


def _coverage(engine: Engine) -> tuple[FileCoverage, ...]:
    report = orjson.loads(engine.get_coverage_report_as_json())
    reached = {one["path"]: (one["covered"], one["not_covered"]) for one in report["files"]}
    found = []
    for module in modules_of(engine):
        path = module["source"]["file"]
        if not path.endswith("_test.rego"):
            covered, missed = reached.get(path) or ((), _lines(module))  # the engine leaves out what it never entered
            found.append(FileCoverage(path, tuple(covered), tuple(missed)))
    return tuple(sorted(found, key=lambda one: one.path))


def _lines(module: Node) -> list[int]:
    lines = set()
    for rule in rules_of(module):
        lines.add(rule.line)
        lines |= {one["span"]["line"] for body in rule.body.get("bodies", ()) for one in body["query"]["stmts"]}
    return sorted(lines)
