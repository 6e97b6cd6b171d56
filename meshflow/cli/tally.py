"""What a set of steps adds up to: by stage, by verdict, by code. All of it from the ledger's records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshflow.stages import STAGES

_FAULTS = frozenset(
    {"stage_error", "stage_timeout", "invalid_decision", "context_written", "input_mutated", "intent_failed"}
)
_STRENGTH = {"deny": 3, "escalate": 2, "allow": 1, "abstain": 0}
_COUNTED = {"deny": "denied", "escalate": "escalated", "allow": "allowed", "abstain": "abstained"}
COUNTS = ("steps", "allowed", "denied", "escalated", "abstained", "errors", "replaced", "shadow_denied")


class Tally:
    """Adds steps up, one at a time."""

    def __init__(self) -> None:
        self.steps = 0
        self.verdicts: Counter[str] = Counter()
        self.codes: Counter[tuple[str, str]] = Counter()
        self.rules: dict[tuple[str, str], Counter[str]] = {}
        self.cost_micro_usd = 0
        self.tokens = 0
        self._durations: list[int] = []
        self._stages: dict[str, _StageTally] = {}

    def add(self, step: Mapping[str, Any]) -> None:
        """Count one step as ``ReplayLedger.get_run`` returns it."""
        self.steps += 1
        self.verdicts[step["verdict"]] += 1
        self.cost_micro_usd += step["cost_micro_usd"]
        self.tokens += step["tokens_used"]
        self._durations.append(step["duration_ns"])
        if step["blocked"]:
            ending = (step["code"], step["verdict"])
            self.codes[ending] += 1
            self.rules.setdefault(ending, Counter()).update(_rules(step))
        by_stage: dict[str, list[Mapping[str, Any]]] = {}
        for result in step["stages"]:
            by_stage.setdefault(result["stage"], []).append(result)
        for stage, results in by_stage.items():
            self._stages.setdefault(stage, _StageTally()).add(results, step)
        self._stages.setdefault("audit_ledger", _StageTally()).count("allowed")  # it is on record, so it was recorded

    def stages(self, counted_by_sla: int | None = None) -> list[dict[str, Any]]:
        """Return the numbers of each stage that steps came to, in order; ``counted_by_sla`` fills in stage 15.

        A step's record cannot hold what happened after it was written: of stages 14 and 15 there are no times.
        """
        if counted_by_sla:
            self._stages.setdefault("sla_record", _StageTally()).counts.update(
                steps=counted_by_sla, allowed=counted_by_sla
            )
        numbers = {stage.name: stage.number for stage in STAGES}
        names = sorted(self._stages, key=lambda name: numbers.get(name, len(STAGES) + 1))
        return [{"number": numbers.get(name), "stage": name, **self._stages[name].to_dict()} for name in names]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of all steps together."""
        return {
            "count": self.steps,
            "verdicts": dict(sorted(self.verdicts.items())),
            "by_code": [
                {
                    "code": code,
                    "verdict": verdict,
                    "steps": steps,
                    "rules": dict(self.rules[code, verdict].most_common()),
                }
                for (code, verdict), steps in sorted(self.codes.items(), key=lambda one: (-one[1], one[0]))
            ],
            "cost_usd": self.cost_micro_usd / 1_000_000,
            "cost_micro_usd": self.cost_micro_usd,
            "tokens": self.tokens,
            **percentiles(self._durations),
        }


class _StageTally:
    """The numbers of one stage. The answers of its providers to one step count as one, the strongest."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._elapsed: list[int] = []

    def count(self, what: str) -> None:
        self.counts["steps"] += 1
        self.counts[what] += 1

    def add(self, results: Sequence[Mapping[str, Any]], step: Mapping[str, Any]) -> None:
        enforced = [result for result in results if result["enforced"]]
        if enforced:
            strongest = max(enforced, key=lambda result: _STRENGTH[result["effect"]])
            self.count("errors" if _is_fault(strongest, step) else _COUNTED[strongest["effect"]])
            if strongest["plugin"] != "kernel":
                self._elapsed.append(sum(result["elapsed_ns"] for result in enforced))
        else:
            self.counts["steps"] += 1
        self.counts["replaced"] += any(result["replaced"] for result in enforced)
        self.counts["shadow_denied"] += any(result["effect"] == "deny" for result in results if not result["enforced"])

    def to_dict(self) -> dict[str, Any]:
        return {name: self.counts[name] for name in COUNTS} | percentiles(self._elapsed)


def _rules(step: Mapping[str, Any]) -> set[str]:
    """Return the names of the policy rules that the step's code comes from."""
    named: set[str] = set()
    for result in step["stages"]:
        if result["enforced"] and result["code"] == step["code"] and isinstance(result["evidence"], Mapping):
            rules = result["evidence"].get("rules", ())
            named.update(rule for rule in rules if isinstance(rule, str))
    return named


def _is_fault(result: Mapping[str, Any], step: Mapping[str, Any]) -> bool:
    """Say whether a denial is a provider's failure, or at stage 12 the handler's, rather than its answer."""
    if result["effect"] != "deny":
        return False
    if result["stage"] == "execution":
        return bool(step["verdict"] == "error")
    return result["code"].rpartition(".")[2] in _FAULTS


def percentiles(durations_ns: Iterable[int]) -> dict[str, float | None]:
    """Return p50, p95 and p99 in milliseconds by nearest rank; None without a value."""
    ordered = sorted(durations_ns)
    return {
        f"p{percent}_ms": ordered[-(-percent * len(ordered) // 100) - 1] / 1_000_000 if ordered else None
        for percent in (50, 95, 99)
    }
