"""What is known of a tool or a node kind, resolved once from the declarations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshflow.plugin import Confidentiality, NodeInput, Origin, RiskTier, TaintLabels
from meshflow_flow.settings import FlowSettings, KindDeclaration, ToolDeclaration

CALL_KINDS = frozenset({"tool", "mcp", "http"})
_OUTSIDE_KINDS = CALL_KINDS

KIND_RISK: dict[str, RiskTier] = {
    "function": RiskTier.INTERNAL,
    "agent": RiskTier.INTERNAL,
    "model": RiskTier.INTERNAL,
    "subgraph": RiskTier.INTERNAL,
    "human": RiskTier.READ_ONLY,
    "tool": RiskTier.EXTERNAL_IO,
    "mcp": RiskTier.EXTERNAL_IO,
    "http": RiskTier.EXTERNAL_IO,
}
KIND_ORIGIN: dict[str, Origin] = {
    "human": Origin.USER,
    "tool": Origin.TOOL,
    "mcp": Origin.EXTERNAL,
    "http": Origin.EXTERNAL,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tool, or one node kind for what is not declared; ``declared_risk`` is None where it is only assumed."""

    name: str
    kind: str
    declared: bool
    declared_risk: RiskTier | None
    assumed_risk: RiskTier
    max_origin: Origin | None
    max_confidentiality: Confidentiality | None
    emits: TaintLabels
    outside: bool
    enabled: bool = True
    owner: str = ""
    schema: dict[str, Any] | bool | None = None


def effective_kind(step: NodeInput) -> str:
    """Return the node kind, where a step of another kind that names a tool is a tool call."""
    if step.kind in CALL_KINDS or not step.tool:
        return step.kind
    return "tool"


class Catalogue:
    """Finds the entry of a step. Entries are made at first use: ten thousand tools cost nothing until called."""

    def __init__(self, settings: FlowSettings) -> None:
        self._tools = settings.tools
        self._entries: dict[tuple[str, str], Entry] = {}
        self._kinds = {
            kind: _kind_entry(kind, settings.kinds.get(kind, KindDeclaration()))  # type: ignore[call-overload]
            for kind in KIND_RISK
        }

    def find(self, step: NodeInput) -> Entry:
        """Return the tool's entry, or that of the step's kind where the tool is not declared."""
        kind = effective_kind(step)
        name = step.tool
        if not name:
            return self._kinds[kind]
        entry = self._entries.get((kind, name))
        if entry is not None:
            return entry
        declaration = self._tools.get(name)
        if declaration is None:
            return self._kinds[kind]
        return self._entries.setdefault((kind, name), _tool_entry(name, declaration, self._kinds[kind]))


def _kind_entry(kind: str, declaration: KindDeclaration) -> Entry:
    risk = RiskTier.parse(declaration.risk) if declaration.risk is not None else None
    return Entry(
        name=kind,
        kind=kind,
        declared=False,
        declared_risk=risk,
        assumed_risk=risk if risk is not None else KIND_RISK[kind],
        max_origin=_origin(declaration.accepts.max_origin),
        max_confidentiality=_confidentiality(declaration.accepts.max_confidentiality),
        emits=_emits(kind, declaration, KIND_ORIGIN.get(kind, Origin.TRUSTED), kind),
        outside=kind in _OUTSIDE_KINDS if declaration.sink is None else declaration.sink == "outside",
    )


def _tool_entry(name: str, declaration: ToolDeclaration, kind: Entry) -> Entry:
    risk = RiskTier.parse(declaration.risk) if declaration.risk is not None else None
    outside = kind.outside and (risk is None or risk > RiskTier.INTERNAL or kind.kind != "tool")
    return Entry(
        name=declaration.name or name,
        kind=kind.kind,
        declared=True,
        declared_risk=risk,
        assumed_risk=kind.assumed_risk,
        max_origin=_origin(declaration.accepts.max_origin),
        max_confidentiality=_confidentiality(declaration.accepts.max_confidentiality),
        emits=_emits(kind.kind, declaration, kind.emits.origin, f"tool:{name}"),
        outside=outside if declaration.sink is None else declaration.sink == "outside",
        enabled=declaration.enabled,
        owner=declaration.owner,
        schema=declaration.arguments,
    )


def _emits(kind: str, declaration: KindDeclaration, default: Origin, source: str) -> TaintLabels:
    origin = _origin(declaration.emits.origin)
    confidentiality = Confidentiality[declaration.emits.confidentiality.upper()]
    origin = default if origin is None else origin
    taints = origin is not Origin.TRUSTED or confidentiality is not Confidentiality.PUBLIC
    return TaintLabels(origin, confidentiality, (source,) if taints else ())


def _origin(name: str | None) -> Origin | None:
    return None if name is None else Origin[name.upper()]


def _confidentiality(name: str | None) -> Confidentiality | None:
    return None if name is None else Confidentiality[name.upper()]
