"""The presidio plugin keeps the contracts of stages 8 and 13."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from meshflow.plugin import NodeInput
from meshflow.testing import StageConformance, steps
from meshflow_presidio import PresidioPlugin


class PresidioConformance(StageConformance):
    settings: ClassVar[Mapping[str, Any]] = {"entities": {"IBAN_CODE": "deny", "IP_ADDRESS": "surrogate"}}

    def steps(self) -> Iterable[NodeInput]:
        yield from steps.ordinary_steps()
        yield NodeInput(node_id="account", input="transfer to DE89 3704 0044 0532 0130 00")
        yield NodeInput(node_id="address", input={"from": ["192.0.2.7", {"password": "hunter2hunter2"}]})


class TestScan(PresidioConformance):
    plugin_type = PresidioPlugin
    stage = "sensitive_data_scan"


class TestOutput(PresidioConformance):
    plugin_type = PresidioPlugin
    stage = "output_guardrails"
