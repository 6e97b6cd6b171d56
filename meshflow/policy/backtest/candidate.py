"""A bundle that is tried: its decisions on recorded documents, and what of them it can look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshflow.decision import Decision
from meshflow.errors import ConfigError
from meshflow.policy.answer import decision_from
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, modules_of, new_engine
from meshflow.policy.encode import encode
from meshflow.policy.engine import ENTRY_POINTS, EntryPoint, PolicyFailure
from meshflow.policy.evaluate import crashed, evaluate_rule
from meshflow.policy.reads import Names, Path, reads_of
from meshflow.policy.syntax import rules_of
from meshflow.policy.tools.reach import Reach
from meshflow.policy.worker import freed_here

_MAX_LOOKED = 10_000
_ANY_SIZE = 1 << 62
"""A record that is read again was small enough to be decided."""


class Candidate:
    """Evaluates a bundle on the thread that made it, with the embedded engine."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        with freed_here(), bundle.errors_placed():
            self._engine = new_engine(bundle)
            analysis = analyse_engine(self._engine, bundle)
            reach = Reach(rule for module in modules_of(self._engine) for rule in rules_of(module))
        self._looked: dict[tuple[str, Path], bool] = {}
        self._reads: dict[str, frozenset[Path]] = {
            entry.stage: _reads(reach, entry.rule) for entry in ENTRY_POINTS if entry.rule in analysis.rules
        }
        if not self._reads:
            raise ConfigError(f"the bundle has none of the entry points {', '.join(one.rule for one in ENTRY_POINTS)}")

    def has(self, entry: EntryPoint) -> bool:
        """Return whether the bundle would be asked at an entry point."""
        return entry.stage in self._reads

    def looks_at(self, entry: EntryPoint, path: Path) -> bool:
        """Return whether a decision at an entry point can depend on a part of the document, or on a part of that."""
        key = entry.stage, path
        known = self._looked.get(key)
        if known is None:
            if len(self._looked) >= _MAX_LOOKED:
                self._looked.clear()
            reads = self._reads[entry.stage]
            known = any(path[: len(read)] == read or read[: len(path)] == path for read in reads)
            self._looked[key] = known
        return known

    def decide(self, entry: EntryPoint, document: Mapping[str, Any]) -> Decision:
        """Return the decision about a document, with the codes that stage 5 would give it."""
        encoded = encode(document, _ANY_SIZE)
        if isinstance(encoded, PolicyFailure):
            return decision_from(encoded, f"{entry.stage}.", {})
        answer = evaluate_rule(self._engine, entry.rule, encoded.decode())
        if crashed(answer):
            self._engine = new_engine(self.bundle)
        return decision_from(answer, f"{entry.stage}.", {})


def _reads(reach: Reach, entry_point: str) -> frozenset[Path]:
    """Return the paths below ``input`` that rules at an entry point read; ``()`` stands for all of it."""
    rules = reach.from_rule(entry_point)
    paths = {read.path for rule in rules for read in reads_of(rule, Names(rule, {}))}
    return frozenset(path for path in paths if not any(path[:end] in paths for end in range(len(path))))
