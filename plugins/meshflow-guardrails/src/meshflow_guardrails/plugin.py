"""Stages 7 and 13: look at what goes in and what comes out for attacks, and keep outputs to their shape."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from meshflow.plugin import UNSET, ConfigError, Decision, Host, Obligation, Plugin, StepContext, hookimpl
from meshflow_guardrails.cap import capped, limit_of
from meshflow_guardrails.fold import may_hide, without_hidden
from meshflow_guardrails.injection import InjectionScanner
from meshflow_guardrails.links import LinkScanner
from meshflow_guardrails.rules import RuleSet
from meshflow_guardrails.schemas import Schemas
from meshflow_guardrails.settings import GuardrailsSettings, HiddenAction
from meshflow_guardrails.walk import Limits, WalkError, changed, settled, texts_of

if TYPE_CHECKING:
    from meshflow.plugin import InputGuard, OutputGuard

_INPUT, _OUTPUT = "input_guardrails", "output_guardrails"
_TOOL_KINDS = frozenset({"tool", "mcp", "http"})
_FLAGGED = 0.3


class _Pass:
    """One value on its way through the checks: as it is now, what was seen, and the denial if there is one."""

    __slots__ = ("denial", "evidence", "hidden", "joined", "stage", "start", "value")

    def __init__(self, stage: str, value: Any) -> None:
        self.stage = stage
        self.value = value
        self.start = value
        self.joined = ""
        self.hidden = ""
        self.evidence: dict[str, Any] = {}
        self.denial: Decision | None = None

    def deny(self, cause: str, reason: str) -> None:
        self.denial = Decision.deny(f"{self.stage}.{cause}", reason, evidence=self.evidence)

    def decision(self) -> Decision:
        if self.denial is not None:
            return self.denial
        replacement = UNSET if self.value is self.start else self.value
        return Decision.allow(replacement=replacement, evidence=self.evidence)


class GuardrailsPlugin(Plugin[GuardrailsSettings]):
    """Guards inputs (stage 7) and outputs (stage 13); meets ``cap_output``."""

    settings_type = GuardrailsSettings
    meets: ClassVar[frozenset[str]] = frozenset({"cap_output"})

    def __init__(self, settings: GuardrailsSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        try:
            self._injections = InjectionScanner(
                settings.disable_signals, decode=settings.decode, decode_chars=settings.decode_chars
            )
        except ValueError as error:
            raise ConfigError(str(error), path="plugins.guardrails.disable_signals") from None
        self._links = LinkScanner(settings.allowed_hosts, settings.link_data_chars)
        self._link_kinds = frozenset(settings.link_kinds) if settings.links != "allow" else frozenset[str]()
        self._rules = RuleSet(settings.rules)
        self._schemas = Schemas(settings.output_schemas)
        self._canaries = tuple(canary.casefold() for canary in settings.canaries)
        self._input_limits = Limits(settings.max_chars, settings.max_nodes, settings.max_depth)
        self._output_limits = Limits(settings.max_output_chars, settings.max_nodes, settings.max_depth)

    def assures(self) -> Mapping[str, Any]:
        """Vouch that injections are refused, where they are."""
        return {"injections_refused": self.settings.injection == "deny"}

    @hookimpl
    async def guard_input(self, context: StepContext) -> Decision:
        """Stage 7: hidden characters, length, rules and injections; a replacement where something was taken out."""
        at = _Pass(_INPUT, context.input)
        try:
            at.value = settled(at.value, self._input_limits)
            texts = texts_of(at.value, self._input_limits)
        except WalkError as error:
            return Decision.deny(f"{_INPUT}.{error.cause}", error.reason)
        at.joined = texts[0] if len(texts) == 1 else "\n".join(texts)
        if len(at.joined) > self.settings.thread_above:
            return await asyncio.to_thread(self._check_input, at)
        return self._check_input(at)

    def _check_input(self, at: _Pass) -> Decision:
        self._check_hidden(at)
        self._check_rules(at)
        self._check_injection(at)
        return at.decision()

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision:
        """Stage 13: as for inputs, and canaries, links, the schema, and what ``cap_output`` asks."""
        at = _Pass(_OUTPUT, output)
        try:
            at.value = settled(output, self._output_limits)
            texts = texts_of(at.value, self._output_limits)
        except WalkError as error:
            return Decision.deny(f"{_OUTPUT}.{error.cause}", error.reason)
        at.joined = texts[0] if len(texts) == 1 else "\n".join(texts)
        if len(at.joined) > self.settings.thread_above:
            return await asyncio.to_thread(self._check_output, at, context)
        return self._check_output(at, context)

    def _check_output(self, at: _Pass, context: StepContext) -> Decision:
        kind = context.step.kind
        self._check_hidden(at)
        self._check_canaries(at)
        self._check_rules(at)
        if self.settings.scan_all_outputs or (self.settings.scan_tool_results and kind in _TOOL_KINDS):
            self._check_injection(at)
        if kind in self._link_kinds:
            self._check_links(at)
        if context.stream is None or context.stream.final:
            self._check_schema(at, context)
        self._cap(at, context)
        return at.decision()

    def _check_hidden(self, at: _Pass) -> None:
        if self.settings.hidden_characters is HiddenAction.ALLOW or not may_hide(at.joined):
            return
        visible, counts, at.hidden = without_hidden(at.joined)
        if not counts:
            return
        at.evidence["hidden_characters"] = counts
        if self.settings.hidden_characters is HiddenAction.DENY:
            at.deny("hidden_characters", f"the text holds characters that show nothing: {counts}; send it without them")
            return
        at.joined = visible
        at.value = changed(at.value, lambda text: without_hidden(text)[0] if may_hide(text) else text)

    def _check_rules(self, at: _Pass) -> None:
        if at.denial is not None or not self._rules.any:
            return
        hits = self._rules.hits(at.joined, at.stage == _OUTPUT)
        if not hits.names:
            return
        at.evidence["rules"] = list(hits.names)
        if hits.denied:
            at.deny("forbidden_pattern", f"the rules {list(hits.denied)} match and deny; change the text, or the rules")
        elif hits.masks:
            at.value = changed(at.value, hits.mask)
            at.joined = hits.mask(at.joined)

    def _check_injection(self, at: _Pass) -> None:
        mode = self.settings.injection
        if at.denial is not None or mode == "allow":
            return
        weighed = self._injections.weigh(at.joined, at.hidden)
        if weighed.score < _FLAGGED:
            return
        at.evidence["injection_score"] = round(weighed.score, 2)
        at.evidence["injection_signals"] = sorted(weighed.signals)
        # A sum of weights such as 0.7 and 0.3 must reach 1.0 although no float holds them exactly.
        if mode == "deny" and weighed.score >= self.settings.threshold - 1e-9:
            at.deny(
                "prompt_injection",
                f"the text gives orders to the model: {', '.join(sorted(weighed.signals))} "
                f"(score {weighed.score:.2f}, threshold {self.settings.threshold:g})",
            )

    def _check_canaries(self, at: _Pass) -> None:
        if at.denial is not None or not self._canaries:
            return
        folded = at.joined.casefold()
        leaked = [i for i, canary in enumerate(self._canaries) if canary in folded]
        if not leaked and self.settings.decode:
            decoded = " ".join(self._injections.decoded(at.joined)).casefold()
            leaked = [i for i, canary in enumerate(self._canaries) if canary in decoded]
        if leaked:
            at.evidence["canaries"] = leaked
            at.deny("canary_leaked", f"the output holds the canaries numbered {leaked} in plugins.guardrails.canaries")

    def _check_links(self, at: _Pass) -> None:
        if at.denial is not None:
            return
        found = self._links.find(at.joined)
        if not found:
            return
        kinds = [kind for _, _, kind in found]
        at.evidence["exfiltration_links"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        if self.settings.links == "deny":
            at.deny(
                "exfiltration_link",
                "the output links to a host that is not allowed and carries data there; add the host to "
                "allowed_hosts if it may have it",
            )
        elif self.settings.links == "strip":
            at.value = changed(at.value, self._links.strip)

    def _check_schema(self, at: _Pass, context: StepContext) -> None:
        if at.denial is not None:
            return
        mismatch = self._schemas.mismatch((context.step.tool, context.step.node_id), at.value)
        if mismatch is not None:
            at.evidence["schema"] = mismatch
            at.deny("schema_mismatch", f"the output does not fit its JSON Schema at {mismatch['at'] or 'the top'}")

    def _cap(self, at: _Pass, context: StepContext) -> None:
        if at.denial is not None or not context.obligations:
            return
        asked: list[Mapping[str, Any]] = [o.parameters for o in context.obligations if _caps(o)]
        if not asked:
            return
        limit = limit_of(asked)
        if limit is None:
            at.deny("unclear_obligation", "cap_output needs a whole number of characters, such as {'chars': 2000}")
            return
        stream = context.stream
        if stream is not None and not stream.final:
            limit = max(0, limit - max(stream.released_chars, len(stream.released)))
        new = capped(at.value, limit)
        if new is at.value:
            return
        at.evidence["capped_chars"] = limit
        if stream is not None and stream.final:
            at.deny("over_cap", f"the stream gave more than the {limit} characters that cap_output lets through")
        else:
            at.value = new


def _caps(obligation: Obligation) -> bool:
    return obligation.name == "cap_output"


if TYPE_CHECKING:
    _input: InputGuard = GuardrailsPlugin(GuardrailsSettings())
    _output: OutputGuard = GuardrailsPlugin(GuardrailsSettings())
