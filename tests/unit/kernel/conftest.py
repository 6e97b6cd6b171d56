"""A plugin that serves all fifteen stages, with any hook's behaviour replaceable, and a runtime on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from meshflow import StepRuntime
from meshflow.decision import Decision
from meshflow.facts import BudgetReservation, Principal, RateLease, RiskTier, TaintLabels, TenantScope
from meshflow.plugin import Approval, Execution, NoSettings, Plugin, StepContext, StepRecord, hookimpl
from meshflow.stages import STAGES

ANSWERS: Mapping[str, Any] = {
    "verify_identity": Decision.allow(fact=Principal("ada", "agent-1")),
    "scope_tenant": Decision.allow(fact=TenantScope("acme")),
    "limit_rate": Decision.allow(fact=RateLease()),
    "check_budget": Decision.allow(fact=BudgetReservation("hold-1", 500)),
    "evaluate_policy": Decision.allow(),
    "classify_risk": Decision.allow(fact=RiskTier.INTERNAL),
    "propagate_taint": Decision.allow(fact=TaintLabels()),
    "authorize_tool": Decision.allow(),
}


class EveryStage(Plugin[NoSettings]):
    """Answers at every stage; ``on[hook]`` replaces what a hook does. Keeps what it was called with."""

    meets = frozenset({"mask_entities"})

    def __init__(self, on: Mapping[str, Any] | None = None) -> None:
        super().__init__(NoSettings())
        self.on = dict(on or {})
        self.calls: list[str] = []
        self.intents: list[Any] = []
        self.records: list[StepRecord] = []
        self.settled: list[StepRecord] = []

    async def _answer(self, hook: str, context: StepContext, *rest: Any) -> Any:
        if not context.look_only:
            self.calls.append(hook)
        behaviour = self.on.get(hook, ANSWERS.get(hook))
        if not callable(behaviour):
            return behaviour
        answer = behaviour(context, *rest)
        return await answer if hasattr(answer, "__await__") else answer

    @hookimpl
    async def verify_identity(self, context: StepContext) -> Decision | None:
        return await self._answer("verify_identity", context)

    @hookimpl
    async def scope_tenant(self, context: StepContext) -> Decision | None:
        return await self._answer("scope_tenant", context)

    @hookimpl
    async def limit_rate(self, context: StepContext) -> Decision | None:
        return await self._answer("limit_rate", context)

    @hookimpl
    async def check_budget(self, context: StepContext) -> Decision | None:
        return await self._answer("check_budget", context)

    @hookimpl
    async def evaluate_policy(self, context: StepContext) -> Decision | None:
        return await self._answer("evaluate_policy", context)

    @hookimpl
    async def apply_compliance_profile(self, context: StepContext) -> Decision | None:
        return await self._answer("apply_compliance_profile", context)

    @hookimpl
    async def guard_input(self, context: StepContext) -> Decision | None:
        return await self._answer("guard_input", context)

    @hookimpl
    async def scan_sensitive_data(self, context: StepContext) -> Decision | None:
        return await self._answer("scan_sensitive_data", context)

    @hookimpl
    async def classify_risk(self, context: StepContext) -> Decision | None:
        return await self._answer("classify_risk", context)

    @hookimpl
    async def propagate_taint(self, context: StepContext) -> Decision | None:
        return await self._answer("propagate_taint", context)

    @hookimpl
    async def authorize_tool(self, context: StepContext) -> Decision | None:
        return await self._answer("authorize_tool", context)

    @hookimpl
    async def execute_step(self, context: StepContext) -> Execution | Decision | None:
        if "execute_step" in self.on:
            return await self._answer("execute_step", context)
        self.calls.append("execute_step")
        handler = context.step.handler
        output = handler(context.input) if handler is not None else context.input
        if hasattr(output, "__await__"):
            output = await output
        if hasattr(output, "__aiter__"):
            return Execution(stream=output)
        return Execution(output=output, cost_micro_usd=100, tokens=7)

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
        return await self._answer("guard_output", context, output)

    @hookimpl
    async def record_intent(self, context: StepContext) -> None:
        await self._answer("record_intent", context)
        self.intents.append(context.recorded_input)

    @hookimpl
    async def record_audit(self, context: StepContext, record: StepRecord) -> None:
        await self._answer("record_audit", context, record)
        self.records.append(record)

    @hookimpl
    async def record_sla(self, context: StepContext, record: StepRecord) -> None:
        await self._answer("record_sla", context, record)

    @hookimpl
    async def settle_step(self, context: StepContext, record: StepRecord) -> None:
        self.settled.append(record)
        await self._answer("settle_step", context, record)

    @hookimpl
    async def find_approval(self, context: StepContext) -> Approval | None:
        return await self._answer("find_approval", context)


class Kit:
    """Makes runtimes whose stages are all served by one EveryStage, beside which other plugins may stand."""

    EveryStage = EveryStage

    def __init__(self) -> None:
        self.plugin = EveryStage()

    def runtime(
        self,
        on: Mapping[str, Any] | None = None,
        *,
        stages: Mapping[str, Any] | None = None,
        beside: Mapping[str, Plugin[Any]] | None = None,
        **more: Any,
    ) -> StepRuntime:
        self.plugin = EveryStage(on)
        served = {stage.name: {"use": "every"} for stage in STAGES}
        for name, value in (stages or {}).items():
            served[name] = {"use": "every", **value} if isinstance(value, dict) else value
        return StepRuntime(config={"stages": served, **more}, plugins={"every": self.plugin, **(beside or {})})


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def answer() -> Callable[[str], Any]:
    """The default answer of a hook."""
    return lambda hook: ANSWERS.get(hook)
