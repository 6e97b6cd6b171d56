"""The rego plugin keeps the contracts of the four stages at which it answers."""

from __future__ import annotations

from meshflow.testing import StageConformance
from meshflow_rego import RegoPlugin


class TestPolicy(StageConformance):
    plugin_type = RegoPlugin
    stage = "policy_evaluation"


class TestCompliance(StageConformance):
    plugin_type = RegoPlugin
    stage = "compliance_profile"


class TestTools(StageConformance):
    plugin_type = RegoPlugin
    stage = "tool_permission"


class TestOutput(StageConformance):
    plugin_type = RegoPlugin
    stage = "output_guardrails"
