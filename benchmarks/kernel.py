"""Fifteen no-op stages through StepRuntime, beside fifteen plain pluggy calls that are awaited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pluggy

from benchmarks.harness import Row, at_most, beside, in_turn
from meshflow import NodeInput, StepRuntime
from meshflow.plugin import (
    BudgetReservation,
    Decision,
    Execution,
    NoSettings,
    Plugin,
    Principal,
    RateLease,
    RiskTier,
    StepContext,
    TaintLabels,
    TenantScope,
    context_for,
    hookimpl,
)
from meshflow.plugin.hookspecs import PROJECT, StageSpecs
from meshflow.stages import STAGES, Stage

STEP = NodeInput(node_id="no-op", input="x", run_id="run", step_id="step")
ANSWERS: Mapping[str, Any] = {
    "verify_identity": Decision.allow(fact=Principal("ada", "agent-1")),
    "scope_tenant": Decision.allow(fact=TenantScope("acme")),
    "limit_rate": Decision.allow(fact=RateLease()),
    "check_budget": Decision.allow(fact=BudgetReservation("hold-1", 500)),
    "evaluate_policy": Decision.allow(),
    "classify_risk": Decision.allow(fact=RiskTier.INTERNAL),
    "propagate_taint": Decision.allow(fact=TaintLabels()),
    "authorize_tool": Decision.allow(),
    "execute_step": Execution(output=1),
}


def _hook(stage: Stage) -> Any:
    """Return an async hook that gives its stage's answer, made beforehand."""
    answer = ANSWERS.get(stage.hook)

    async def gate(self: object, context: StepContext) -> Any:
        return answer

    async def guard(self: object, context: StepContext, output: Any) -> Any:
        return answer

    async def recorder(self: object, context: StepContext, record: Any) -> Any:
        return answer

    hook: Any = {("context",): gate, ("context", "output"): guard, ("context", "record"): recorder}[stage.arguments]
    hook.__name__ = stage.hook
    return hookimpl(hook)


async def _record_intent(self: object, context: StepContext) -> None:
    return None


NoOp: Any = type(
    "NoOp", (Plugin,), {**{stage.hook: _hook(stage) for stage in STAGES}, "record_intent": hookimpl(_record_intent)}
)


async def pluggy_calls(hook: Any, context: StepContext) -> None:
    """Call fifteen hooks as a host of plain pluggy does, and await what comes back."""
    for answer in hook.verify_identity(context=context):
        await answer
    for answer in hook.scope_tenant(context=context):
        await answer
    for answer in hook.limit_rate(context=context):
        await answer
    for answer in hook.check_budget(context=context):
        await answer
    for answer in hook.evaluate_policy(context=context):
        await answer
    for answer in hook.apply_compliance_profile(context=context):
        await answer
    for answer in hook.guard_input(context=context):
        await answer
    for answer in hook.scan_sensitive_data(context=context):
        await answer
    for answer in hook.classify_risk(context=context):
        await answer
    for answer in hook.propagate_taint(context=context):
        await answer
    for answer in hook.authorize_tool(context=context):
        await answer
    for answer in hook.execute_step(context=context):
        await answer
    for answer in hook.guard_output(context=context, output=1):
        await answer
    for answer in hook.record_audit(context=context, record=None):
        await answer
    for answer in hook.record_sla(context=context, record=None):
        await answer


async def rows(quick: bool) -> list[Row]:
    """Measure the kernel alone."""
    rounds, count = (1, 20) if quick else (15, 2_000)
    plugin = NoOp(NoSettings())
    runtime = StepRuntime(config={"stages": {stage.name: "noop" for stage in STAGES}}, plugins={"noop": plugin})
    if not (await runtime.run(STEP)).ok:
        raise RuntimeError("the no-op step does not complete")
    context = context_for(STEP)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(StageSpecs)
    manager.register(plugin)
    values = {"context": context, "output": 1, "record": None}
    hooks = [(getattr(plugin, stage.hook), [values[name] for name in stage.arguments]) for stage in STAGES]

    async def governed() -> None:
        for _ in range(count):
            await runtime.run(STEP)

    async def plain() -> None:
        for _ in range(count):
            await pluggy_calls(manager.hook, context)

    async def bare() -> None:
        for _ in range(count):
            for hook, arguments in hooks:
                await hook(*arguments)

    spent = await in_turn(rounds, {"governed": governed, "plain": plain, "bare": bare}, count)
    await runtime.aclose()
    us = {name: one.cpu * 1e6 for name, one in spent.items()}
    return [
        at_most(
            "15 no-op stages, no ledger, recorders shielded: CPU", us["governed"], "us", 2.0,
            baseline=us["plain"], baseline_is="15 pluggy calls, awaited",
        ),
        beside("the same", us["governed"], "us", us["bare"], "15 direct awaits"),
    ]  # fmt: skip
