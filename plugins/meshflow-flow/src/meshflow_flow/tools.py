"""Stage 11: decide on a tool call, with its risk and the labels of its arguments known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshflow.plugin import (
    Confidentiality,
    ConfigError,
    Decision,
    Host,
    NodeInput,
    Origin,
    Plugin,
    RiskTier,
    StepContext,
    TaintLabels,
    ToolAuthorizer,
    hookimpl,
)
from meshflow_flow.arguments import ArgumentSchema
from meshflow_flow.catalogue import CALL_KINDS, Catalogue, Entry
from meshflow_flow.settings import FlowSettings

_WORST = TaintLabels(Origin.EXTERNAL, Confidentiality.SECRET, ("unknown",))
_IRREVERSIBLE_ACCEPTS = Origin.USER
_OUTSIDE_ACCEPTS = Confidentiality.TENANT


class ToolsPlugin(Plugin[FlowSettings]):
    """Refuses unknown tools and wrong arguments, keeps labels within clearances, and asks a person about high risk.

    The answer is the same with and without an approval: what an approval settles is the kernel's to know.
    """

    settings_type = FlowSettings
    section = "tools"

    def __init__(self, settings: FlowSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._catalogue = Catalogue(settings)
        self._strict = bool(settings.tools) if settings.strict is None else settings.strict
        level = settings.approval_from
        self._approve_from = RiskTier.parse(level) if level != "never" else None
        self._schemas: dict[str, ArgumentSchema | str] = {}

    def assures(self) -> Mapping[str, Any]:
        """Vouch for the refusal of undeclared tools, and say from which risk on a person approves."""
        return {"declared_tools_only": self._strict, "approval_from": self.settings.approval_from}

    @hookimpl
    async def startup(self) -> None:
        """Compile every schema, so that a wrong one is found before the first step."""
        for name, declaration in self.settings.tools.items():
            if declaration.arguments is not None:
                schema = self._schema(name, declaration.arguments)
                if isinstance(schema, str):
                    raise ConfigError(schema, path=f"tools.tools.{name}.schema")

    @hookimpl
    async def authorize_tool(self, context: StepContext) -> Decision | None:
        """Allow what is not a call; for a call, deny what is certain to be wrong before asking a person."""
        step = context.step
        if step.kind not in CALL_KINDS and not step.tool:
            return _NOT_A_CALL
        entry = self._catalogue.find(step)
        tier = context.risk if context.risk is not None else RiskTier.IRREVERSIBLE
        labels = context.labels if context.labels is not None else _WORST
        return (
            self._known(step, entry)
            or self._valid(step, entry, context.input)
            or _confidential(entry, labels)
            or self._trusted(entry, tier, labels)
            or self._approved(entry, tier)
            or Decision.allow(evidence=_about(step, entry, tier))
        )

    def _known(self, step: NodeInput, entry: Entry) -> Decision | None:
        if step.tool and not entry.declared and self._strict:
            return Decision.deny(
                "tool_permission.unknown_tool",
                "the tool is not declared; declare it under tools.tools in meshflow.yaml, or set tools.strict to false",
                evidence={"declared": len(self.settings.tools)},
            )
        if not entry.enabled:
            return Decision.deny("tool_permission.disabled", f"the tool {entry.name} is declared with enabled: false")
        return None

    def _valid(self, step: NodeInput, entry: Entry, arguments: Any) -> Decision | None:
        if entry.schema is None or step.tool is None:
            return None
        schema = self._schema(step.tool, entry.schema)
        if isinstance(schema, str):
            return Decision.deny("tool_permission.invalid_schema", f"{entry.name}: {schema}")
        problem = schema.problem(arguments)
        if problem:
            return Decision.deny("tool_permission.invalid_arguments", f"{entry.name}: {problem}")
        return None

    def _schema(self, tool: str, schema: dict[str, Any] | bool) -> ArgumentSchema | str:
        known = self._schemas.get(tool)
        if known is None:
            try:
                known = ArgumentSchema(schema)
            except ConfigError as error:
                known = error.problem
            self._schemas[tool] = known
        return known

    def _trusted(self, entry: Entry, tier: RiskTier, labels: TaintLabels) -> Decision | None:
        highest = entry.max_origin
        if highest is None:
            if tier < RiskTier.IRREVERSIBLE:
                return None
            highest = _IRREVERSIBLE_ACCEPTS
        if labels.origin <= highest:
            return None
        reason = (
            f"{entry.name} ({tier.label}) accepts input up to origin {highest.name.lower()}; "
            f"this input is {labels.origin.name.lower()}"
        )
        evidence = {"tier": tier.label, "origin": labels.origin.name.lower(), "sources": list(labels.sources)}
        answer = Decision.deny if self.settings.untrusted_to_irreversible == "deny" else Decision.escalate
        return answer("tool_permission.untrusted_input", reason, evidence=evidence)

    def _approved(self, entry: Entry, tier: RiskTier) -> Decision | None:
        if self._approve_from is None or tier < self._approve_from:
            return None
        return Decision.escalate(
            "tool_permission.needs_approval",
            f"{entry.name} is {tier.label}, and a person approves from {self._approve_from.label}",
            evidence={"tier": tier.label, "owner": entry.owner},
        )


def _confidential(entry: Entry, labels: TaintLabels) -> Decision | None:
    highest = entry.max_confidentiality
    if highest is None:
        if not entry.outside:
            return None
        highest = _OUTSIDE_ACCEPTS
    if labels.confidentiality <= highest:
        return None
    code = "tool_permission.confidential_to_sink" if entry.outside else "tool_permission.above_clearance"
    return Decision.deny(
        code,
        f"{entry.name} accepts input up to {highest.name.lower()}; this input is {labels.confidentiality.name.lower()}",
        evidence={"confidentiality": labels.confidentiality.name.lower(), "sources": list(labels.sources)},
    )


def _about(step: NodeInput, entry: Entry, tier: RiskTier) -> dict[str, Any]:
    about: dict[str, Any] = {"tier": tier.label, "declared": entry.declared}
    if entry.owner:
        about["owner"] = entry.owner
    return about


_NOT_A_CALL = Decision.allow(reason="not a tool call")

if TYPE_CHECKING:
    _: ToolAuthorizer = ToolsPlugin(FlowSettings())
