"""Put the question of each recorded decision to the candidate, and compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from meshflow.decision import Decision
from meshflow.policy.asked import KEY, document_of
from meshflow.policy.backtest.candidate import Candidate
from meshflow.policy.backtest.doubts import doubts_of
from meshflow.policy.backtest.duties import changed_duties, unknown_duties
from meshflow.policy.backtest.report import Change, Report
from meshflow.policy.engine import ENTRY_POINTS, NOT_OF_THE_BUNDLE, EntryPoint

_BY_STAGE = {entry.stage: entry for entry in ENTRY_POINTS}


class Backtest:
    """Judges steps one by one, as the ledger's readers give them, and keeps no step."""

    def __init__(self, candidate: Candidate, *, plugin: str = "rego", examples: int = 20) -> None:
        self._candidate = candidate
        self._plugin = plugin
        self.report = Report(candidate.bundle.name, candidate.bundle.digest, examples)

    def judge(self, step: Mapping[str, Any]) -> None:
        """Compare each decision that the policy plugin gave about a step, enforced or not denied by the kernel."""
        self.report.steps += 1
        for place in self._places(step):
            self._compare(step, place)

    def _places(self, step: Mapping[str, Any]) -> Iterator[int]:
        """Yield the places of the plugin's answers among the step's stages."""
        for place, result in enumerate(step["stages"]):
            name = result["plugin"]
            if (
                (name == self._plugin or name.startswith(f"{self._plugin}@"))
                and result["enforced"]
                and result["effect"] != "abstain"
                and result["stage"] in _BY_STAGE
            ):
                yield place

    def _compare(self, step: Mapping[str, Any], place: int) -> None:
        result = step["stages"][place]
        entry, report = _BY_STAGE[result["stage"]], self.report
        report.decisions += 1
        evidence = result["evidence"]
        report.bundles.add(str(evidence.get("bundle_digest", "(unknown)"))[:16], entry.stage)
        cause = _cause(result["code"])
        if cause in NOT_OF_THE_BUNDLE:
            report.doubt(_change(step, result, "", why=f"no bundle decided: {cause}"))
            return
        if not self._candidate.has(entry):
            self._settle(step, result, entry, None)
            return
        try:
            document = document_of(step, entry.stage, evidence[KEY])
        except (KeyError, TypeError):
            report.doubt(_change(step, result, "", why=_gone(step)))
            return
        watched = partial(self._candidate.looks_at, entry)
        for doubt in doubts_of(step, place, document, watched):
            if watched(doubt.path):
                why = f"{doubt.path[0]} is {doubt.why}"
                report.doubt(_change(step, result, "", why=why))
                return
        self._settle(step, result, entry, self._candidate.decide(entry, document))

    def _settle(
        self, step: Mapping[str, Any], result: Mapping[str, Any], entry: EntryPoint, decision: Decision | None
    ) -> None:
        now = "abstain" if decision is None else decision.effect.value
        then_rules = _rules(result["evidence"], result["code"])
        now_rules = set() if decision is None else _rules(decision.evidence, decision.code)
        new: set[str] = set()
        gone: set[str] = set()
        if decision is not None and now == result["effect"]:
            if unknown_duties(result["evidence"], decision.evidence):
                self.report.doubt(_change(step, result, "", why="the record does not say which duties were asked"))
                return
            new, gone = changed_duties(result["evidence"], decision.evidence)
            if then_rules == now_rules and not (new or gone):
                self.report.same += 1
                return
        change = _change(
            step, result, now,
            gains=tuple(sorted(now_rules - then_rules)), loses=tuple(sorted(then_rules - now_rules)),
            new_duties=tuple(sorted(new)), lost_duties=tuple(sorted(gone)),
            reason=decision.reason if decision is not None else f"the bundle lacks {entry.rule}",
        )  # fmt: skip
        if now == result["effect"] and not (new or gone):
            self.report.other_reasons(change)
        else:
            self.report.flip(change)


def _cause(code: str) -> str:
    return code.rpartition(".")[2].removeprefix("policy_")


def _rules(evidence: Mapping[str, Any], code: str) -> set[str]:
    """Return who spoke: the rules that gave reasons, codes of those without a name, or the cause of a failure."""
    named = set(evidence.get("rules", ())) or set(evidence.get("codes", ()))
    cause = _cause(code)
    return named if named or cause in ("", "denied", "escalated") else {f"({cause})"}


def _gone(step: Mapping[str, Any]) -> str:
    if "results" in step["erased"]:
        return "the decision's evidence is erased"
    if step["redaction"] == "withheld":
        return "the decision's evidence is withheld"
    return "the record does not say what was asked"


def _change(step: Mapping[str, Any], result: Mapping[str, Any], now: str, **more: Any) -> Change:
    principal = step["principal"] or {}
    return Change(
        run_id=step["run_id"],
        step_index=step["step_index"],
        step_id=step["step_id"],
        stage=result["stage"],
        node=step["node_id"],
        agent=str(principal.get("agent_id", "(erased)")),
        tool=step["tool"] or "",
        tenant=step["tenant_id"],
        then=result["effect"],
        now=now,
        **more,
    )
