"""Stage 9: say how much harm a step can do."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from meshflow.plugin import (
    Decision,
    Host,
    NodeInput,
    Plugin,
    RiskClassifier,
    RiskTier,
    StepContext,
    StepRecord,
    Verdict,
    hookimpl,
)
from meshflow_flow.catalogue import Catalogue
from meshflow_flow.rules import CompiledRule, compile_rules
from meshflow_flow.settings import FlowSettings
from meshflow_flow.verbs import VERB_TIERS, verb_tier

Signal = tuple[RiskTier, str]
_MAX_CACHED = 4_096
_MAX_FAILING = 10_000


class RiskPlugin(Plugin[FlowSettings]):
    """Takes the highest of what the declaration, the action, the arguments, the history and the caller say.

    A declared tier is never lowered. What is only assumed (from the node kind and the words of the tool's name) counts
    where no tier is declared.
    """

    settings_type = FlowSettings
    section = "tools"

    def __init__(self, settings: FlowSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._catalogue = Catalogue(settings)
        self._verbs = VERB_TIERS | {verb.lower(): RiskTier.parse(tier) for verb, tier in settings.verbs.items()}
        self._rules = compile_rules(settings.raise_when)
        self._everywhere = self._rules.get("*", ())
        self._static: dict[tuple[str, str | None, str | None], tuple[Signal, ...]] = {}
        self._failing: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._history_tier = RiskTier.parse(settings.history.to) if settings.history else RiskTier.IRREVERSIBLE

    def adopt(self, previous: Plugin[Any]) -> None:
        """Go on with the failures counted so far."""
        if isinstance(previous, RiskPlugin):
            self._failing = previous._failing

    @hookimpl
    async def classify_risk(self, context: StepContext) -> Decision | None:
        """Return the highest tier of all signals, with the signal that decided."""
        step = context.step
        signals = self._static_signals(step)
        if step.risk is not None:
            asked = _parse(step.risk)
            if asked is None:
                return Decision.deny(
                    "risk_classification.unknown_tier",
                    f"the step asks for a risk tier that does not exist; choose one of {[t.label for t in RiskTier]}",
                )
            signals = (*signals, (asked, "step"))
        if self._rules:
            signals += tuple((rule.tier, rule.name) for rule in self._rules_for(step) if rule.fires(context.input))
        if self._failing and self._keeps_failing(context):
            signals = (*signals, (self._history_tier, "history"))
        return _answer(signals)

    @hookimpl
    async def settle_step(self, context: StepContext, record: StepRecord) -> None:
        """Count failures in a row by tenant and tool, where the settings ask for it."""
        if self.settings.history is None or not record.executed or not record.tool or context.look_only:
            return
        key = (record.tenant_id, record.tool)
        if record.verdict is Verdict.COMMIT:
            self._failing.pop(key, None)
        elif record.verdict is Verdict.ERROR:
            self._failing[key] = self._failing.pop(key, 0) + 1
            if len(self._failing) > _MAX_FAILING:
                self._failing.popitem(last=False)

    def _static_signals(self, step: NodeInput) -> tuple[Signal, ...]:
        key = (step.kind, step.tool, step.action)
        signals = self._static.get(key)
        if signals is None:
            signals = self._look_up(step)
            if len(self._static) >= _MAX_CACHED:
                self._static.clear()
            self._static[key] = signals
        return signals

    def _look_up(self, step: NodeInput) -> tuple[Signal, ...]:
        entry = self._catalogue.find(step)
        signals: list[Signal] = []
        if entry.declared_risk is not None:
            signals.append((entry.declared_risk, "declared"))
        else:
            signals.append((entry.assumed_risk, f"kind:{entry.kind}"))
            named = verb_tier(step.tool, self._verbs) if step.tool else None
            if named is not None:
                signals.append((named, "tool_name"))
        acted = verb_tier(step.action, self._verbs) if step.action else None
        if acted is not None:
            signals.append((acted, "action"))
        return tuple(signals)

    def _rules_for(self, step: NodeInput) -> tuple[CompiledRule, ...]:
        own = self._rules.get(step.tool, ()) if step.tool and step.tool != "*" else ()
        return self._everywhere + own

    def _keeps_failing(self, context: StepContext) -> bool:
        history, tool = self.settings.history, context.step.tool
        if history is None or not tool:
            return False
        return self._failing.get((context.tenant_id or "", tool), 0) >= history.failures


def _parse(risk: object) -> RiskTier | None:
    if isinstance(risk, RiskTier):
        return risk
    if not isinstance(risk, str):
        return None
    try:
        return RiskTier.parse(risk)
    except ValueError:
        return None


def _answer(signals: tuple[Signal, ...]) -> Decision:
    tier, by = max(signals, key=_tier)
    evidence: dict[str, Any] = {"decided_by": by}
    if len(signals) > 1:
        evidence["signals"] = {name: found.label for found, name in signals}
    return Decision.allow(fact=tier, evidence=evidence)


def _tier(signal: Signal) -> RiskTier:
    return signal[0]


if TYPE_CHECKING:
    _: RiskClassifier = RiskPlugin(FlowSettings())
