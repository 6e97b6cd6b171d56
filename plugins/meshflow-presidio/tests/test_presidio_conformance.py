"""The plugin keeps the contract of both stages that it answers at."""

from __future__ import annotations

from meshflow.testing import StageConformance
from meshflow_presidio import PresidioPlugin


class TestSensitiveDataScan(StageConformance):
    plugin_type = PresidioPlugin
    stage = "sensitive_data_scan"


class TestOutputs(StageConformance):
    plugin_type = PresidioPlugin
    stage = "output_guardrails"
