"""The plugin keeps the contract of both stages that it answers at."""

from __future__ import annotations

from meshflow.testing import StageConformance
from meshflow_guardrails import GuardrailsPlugin


class TestInputGuardrails(StageConformance):
    plugin_type = GuardrailsPlugin
    stage = "input_guardrails"


class TestOutputGuardrails(StageConformance):
    plugin_type = GuardrailsPlugin
    stage = "output_guardrails"
