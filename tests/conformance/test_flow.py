"""The risk, taint and tools plugins keep the contracts of stages 9 to 11."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshflow.plugin import NodeInput, Origin, TaintLabels
from meshflow.testing import StageConformance, steps
from meshflow_flow import RiskPlugin, TaintPlugin, ToolsPlugin

SETTINGS: dict[str, Any] = {
    "tools": {
        "crm.lookup": {
            "risk": "read_only",
            "schema": {"type": "object", "properties": {"customer": {"type": "integer"}}, "required": ["customer"]},
        },
        "payments.refund": {"risk": "irreversible", "owner": "payments"},
        "mail": {"risk": "external_io", "sink": "outside"},
        "closed": {"risk": "internal", "enabled": False},
    },
    "raise_when": [{"tool": "payments.refund", "argument": "amount", "above": 10, "to": "irreversible"}],
}


class FlowConformance(StageConformance):
    settings = SETTINGS

    def steps(self) -> Iterable[NodeInput]:
        yield from steps.ordinary_steps()
        yield NodeInput(node_id="closed", kind="tool", tool="closed", input={})
        yield NodeInput(node_id="unknown", kind="tool", tool="unknown", input={})
        yield NodeInput(node_id="wrong", kind="tool", tool="crm.lookup", input={"customer": "seven"})
        outside = TaintLabels(Origin.EXTERNAL, sources=("web",))
        yield NodeInput(node_id="labelled", kind="tool", tool="mail", input={"to": "a"}, labels=outside)


class TestRisk(FlowConformance):
    plugin_type = RiskPlugin
    stage = "risk_classification"


class TestTaint(FlowConformance):
    plugin_type = TaintPlugin
    stage = "taint_propagation"


class TestTools(FlowConformance):
    plugin_type = ToolsPlugin
    stage = "tool_permission"
