"""The fifteen small packages keep the contracts of their stages."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from swap_01_identity import BadgeIdentity
from swap_02_tenant import TenantByAgent
from swap_03_rate import Weekdays
from swap_04_budget import StepCount
from swap_05_policy import ListedActions
from swap_06_compliance import Contracts
from swap_07_input import NoXyzzy
from swap_08_sensitive import Codenames
from swap_09_risk import RiskByName
from swap_10_taint import MailIsExternal
from swap_11_tools import ToolList
from swap_12_execution import LoudExecutor, loud
from swap_13_output import Checked
from swap_14_ledger import JsonLines
from swap_15_sla import Slowest

from meshflow.plugin import NodeInput, Principal
from meshflow.testing import ExecutorConformance, RecorderConformance, StageConformance, steps


class TestBadgeIdentity(StageConformance):
    plugin_type = BadgeIdentity
    stage = "identity_verification"

    def steps(self) -> Iterable[NodeInput]:
        return [NodeInput(node_id="n", credential=credential) for credential in ("badge-7", "badge-8", None)]


class TestTenantByAgent(StageConformance):
    plugin_type = TenantByAgent
    stage = "tenant_scoping"
    facts: ClassVar[Mapping[str, Any]] = {"identity_verification": Principal("alice", "acme/helper")}


class TestWeekdays(StageConformance):
    plugin_type = Weekdays
    stage = "rate_limiting"


class TestStepCount(StageConformance):
    plugin_type = StepCount
    stage = "budget_check"


class TestListedActions(StageConformance):
    plugin_type = ListedActions
    stage = "policy_evaluation"


class TestContracts(StageConformance):
    plugin_type = Contracts
    stage = "compliance_profile"


class TestNoXyzzy(StageConformance):
    plugin_type = NoXyzzy
    stage = "input_guardrails"

    def steps(self) -> Iterable[NodeInput]:
        yield from steps.ordinary_steps()
        yield NodeInput(node_id="n", input={"deep": ["say", {"xyzzy": 1}]})


class TestCodenames(StageConformance):
    plugin_type = Codenames
    stage = "sensitive_data_scan"

    def steps(self) -> Iterable[NodeInput]:
        yield from steps.ordinary_steps()
        yield NodeInput(node_id="n", input={"deep": ["bluebird", ("bluebird flies",)]})


class TestRiskByName(StageConformance):
    plugin_type = RiskByName
    stage = "risk_classification"


class TestMailIsExternal(StageConformance):
    plugin_type = MailIsExternal
    stage = "taint_propagation"


class TestToolList(StageConformance):
    plugin_type = ToolList
    stage = "tool_permission"


class TestLoudExecutor(ExecutorConformance):
    plugin_type = LoudExecutor

    def expected(self, output: Any) -> Any:
        return loud(output)


class TestChecked(StageConformance):
    plugin_type = Checked
    stage = "output_guardrails"

    def steps(self) -> Iterable[NodeInput]:
        yield from steps.ordinary_steps()
        yield NodeInput(node_id="n", input="I cannot know that as a language model.")


class TestJsonLines(RecorderConformance):
    plugin_type = JsonLines

    async def stored(self, folder: Path) -> Collection[str]:
        keys = [json.loads(json.loads(line)["key"]) for line in (folder / "steps.jsonl").read_text().splitlines()]
        return [step_id for _, step_id, _, kind in keys if kind == "step"]

    def break_storage(self, folder: Path, subject: Any) -> bool:
        (folder / "steps.jsonl").unlink()
        (folder / "steps.jsonl").mkdir()
        return True


class TestSlowest(RecorderConformance):
    plugin_type = Slowest
    stage = "sla_record"
