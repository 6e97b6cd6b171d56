"""The rego plugin keeps the contracts of the four stages that it serves."""

from __future__ import annotations

from pathlib import Path

from meshflow.clock import ManualClock
from meshflow.plugin import Host
from meshflow.policy import Policy
from meshflow.testing import StageConformance
from meshflow_rego import RegoPlugin

EVERYWHERE = {
    f"{stage}.rego": f"""package meshflow.{stage}

decision := {{"allow": count(denials) == 0, "reasons": denials}}

denials contains {{"code": "refused", "message": "no", "rule": "{stage}.refused"}} if input.step.attempt > 2
"""
    for stage in ("policy", "compliance", "tools", "output")
}


class TestStarterPolicy(StageConformance):
    plugin_type = RegoPlugin
    stage = "policy_evaluation"


class TestStarterTools(StageConformance):
    plugin_type = RegoPlugin
    stage = "tool_permission"


class _Everywhere(StageConformance):
    plugin_type = RegoPlugin
    stage = "policy_evaluation"

    def host(self, folder: Path) -> Host:
        return Host(clock=ManualClock(), base=folder, policy=Policy.from_rego(EVERYWHERE))


class TestCompliance(_Everywhere):
    stage = "compliance_profile"


class TestOutput(_Everywhere):
    stage = "output_guardrails"
