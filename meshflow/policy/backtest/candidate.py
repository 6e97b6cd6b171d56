"""A bundle that is tried: its decisions on recorded documents, and what of them it can look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from meshflow.decision import Decision
from meshflow.errors import ConfigError
from meshflow.policy.answer import decision_from, parse_answer
from meshflow.policy.backtest.reads import Path, input_reads
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, is_panic, modules_of, new_engine
from meshflow.policy.engine import ENTRY_POINTS, EntryPoint, PolicyFailure
from meshflow.policy.regorus import failure_of
from meshflow.policy.syntax import rules_of
from meshflow.policy.tools.reach import Reach
from meshflow.policy.worker import freed_here

_MAX_LOOKED = 10_000
_UNDEFINED = '"<undefined>"'


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
            entry.stage: input_reads(reach, entry.rule) for entry in ENTRY_POINTS if entry.rule in analysis.rules
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
        try:
            self._engine.set_input_json(orjson.dumps(document).decode())
            raw = self._engine.eval_rule_as_json(entry.rule)
        except RuntimeError as error:
            return decision_from(failure_of(error), f"{entry.stage}.", {})
        except BaseException as error:
            if not is_panic(error):
                raise
            self._engine = new_engine(self.bundle)
            crashed = PolicyFailure("engine_crashed", "the policy engine crashed while it evaluated this step")
            return decision_from(crashed, f"{entry.stage}.", {})
        if raw == _UNDEFINED:
            return decision_from(PolicyFailure("undefined", f"{entry.rule} is undefined"), f"{entry.stage}.", {})
        return decision_from(parse_answer(orjson.loads(raw)), f"{entry.stage}.", {})
