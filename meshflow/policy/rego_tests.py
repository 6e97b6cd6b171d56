"""Run the ``test_*`` rules of a bundle, as ``opa test`` would."""

from __future__ import annotations

from dataclasses import dataclass

from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, describe, new_engine


@dataclass(frozen=True, slots=True)
class RegoTest:
    """One test rule and how it went; ``problem`` is empty where it passed."""

    rule: str
    where: str
    problem: str = ""

    @property
    def passed(self) -> bool:
        """True when the rule was true."""
        return not self.problem


def run_rego_tests(bundle: Bundle) -> tuple[RegoTest, ...]:
    """Evaluate each test rule of a bundle that was loaded with ``tests=True``. Anything but true fails.

    Blocks while it runs, and the engine lives and dies on the calling thread.
    """
    with bundle.errors_placed():
        engine = new_engine(bundle)
        analysis = analyse_engine(engine, bundle)
    results = []
    for rule, where in analysis.tests:
        try:
            raw = engine.eval_rule_as_json(rule)
        except RuntimeError as error:
            place, message = describe(error)
            results.append(RegoTest(rule, where, f"{place}: {message}" if place else message))
        else:
            shown = "undefined" if raw == '"<undefined>"' else raw
            results.append(RegoTest(rule, where, "" if raw == "true" else f"is {shown[:200]}, not true"))
    return tuple(results)
