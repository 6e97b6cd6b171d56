"""Hooks that wait: each is bounded by its own stage's time-out, and recording stays in a task of its own."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from meshflow import NodeInput, Status

STEP = NodeInput(node_id="n", input="text", handler=lambda value: value)
HERE: ContextVar[str] = ContextVar("here", default="caller")


def pausing(seconds, answer=None):
    async def pauses(context, *rest):
        await asyncio.sleep(seconds)
        return answer

    return pauses


async def test_hooks_that_wait_one_after_another_each_have_their_own_time(kit, answer):
    hooks = ("limit_rate", "guard_input", "classify_risk", "authorize_tool")
    on = {hook: pausing(0.06, answer(hook)) for hook in hooks}
    names = ("rate_limiting", "input_guardrails", "risk_classification", "tool_permission")
    runtime = kit.runtime(on, stages={name: {"timeout_ms": 150} for name in names})
    assert (await runtime.run(STEP)).ok


@pytest.mark.parametrize("hook", ["guard_output", "scan_sensitive_data", "verify_identity", "authorize_tool"])
async def test_a_hook_that_hangs_after_others_have_waited_is_cut_off(kit, answer, hook):
    names = {
        "guard_output": "output_guardrails",
        "scan_sensitive_data": "sensitive_data_scan",
        "verify_identity": "identity_verification",
        "authorize_tool": "tool_permission",
    }
    on = {"limit_rate": pausing(0.01, answer("limit_rate")), "record_intent": pausing(0.01), hook: pausing(60)}
    outcome = await kit.runtime(on, stages={names[hook]: {"timeout_ms": 30}}).run(STEP)
    assert outcome.code == f"{names[hook]}.stage_timeout"
    assert len(kit.plugin.records) == 1


async def test_an_explanation_goes_on_past_a_hook_that_hangs(kit, answer):
    on = {
        "limit_rate": pausing(60),
        "check_budget": pausing(0.01, answer("check_budget")),
        "guard_input": pausing(60),
        "authorize_tool": pausing(0.01, answer("authorize_tool")),
    }
    stages = {"rate_limiting": {"timeout_ms": 20}, "input_guardrails": {"timeout_ms": 20}}
    explanation = await kit.runtime(on, stages=stages).explain(STEP)
    denied = [result.code for result in explanation.results if result.code]
    assert denied == ["rate_limiting.stage_timeout", "input_guardrails.stage_timeout"]
    assert explanation.results[-1].stage == "tool_permission"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_hook_that_raises_cancelled_error_after_another_hung_is_an_error_of_its_own(kit):
    def cancels(context):
        raise asyncio.CancelledError

    on = {"limit_rate": pausing(60), "check_budget": cancels}
    explanation = await kit.runtime(on, stages={"rate_limiting": {"timeout_ms": 20}}).explain(STEP)
    codes = [result.code for result in explanation.results]
    assert "budget_check.stage_error" in codes


async def test_a_step_run_while_its_task_is_being_cancelled_still_cuts_hooks_off(kit):
    runtime = kit.runtime({"limit_rate": pausing(60)}, stages={"rate_limiting": {"timeout_ms": 20}})

    async def cleans_up():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return await runtime.run(STEP)

    task = asyncio.create_task(cleans_up())
    await asyncio.sleep(0)
    task.cancel()
    assert (await task).code == "rate_limiting.stage_timeout"


async def test_a_cancellation_wins_over_a_time_out_that_comes_with_it(kit):
    async def slow_to_die(context):
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)

    runtime = kit.runtime({"limit_rate": slow_to_die}, stages={"rate_limiting": {"timeout_ms": 20}})
    task = asyncio.create_task(runtime.run(STEP))
    await asyncio.sleep(0.04)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.code for record in kit.plugin.records] == ["step.cancelled"]


async def test_a_shadow_that_hangs_is_cut_off_and_denies_nothing(kit):
    shadow = kit.EveryStage({"evaluate_policy": pausing(60)})
    stages = {"policy_evaluation": {"also_shadow": ["shade"], "timeout_ms": 20}}
    outcome = await kit.runtime(stages=stages, beside={"shade": shadow}).run(STEP)
    assert outcome.ok
    assert "policy_evaluation.stage_timeout" in [result.code for result in outcome.results]


async def test_recorders_run_in_a_task_that_is_not_the_callers(kit):
    seen = []

    async def records(context, record):
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    assert (await kit.runtime({"record_audit": records}).run(STEP)).ok
    first, then = seen
    assert first is then
    assert first is not asyncio.current_task()
    assert first is not None


async def test_a_recorder_may_use_time_outs_and_task_groups_of_its_own(kit):
    async def records(context, record):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(-1):
                await asyncio.sleep(60)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))

    outcome = await kit.runtime({"record_audit": records, "record_sla": records}).run(STEP)
    assert (outcome.status, outcome.recorded) == (Status.COMPLETED, True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_a_recorder_sets_in_its_context_does_not_reach_the_caller(kit):
    def records(context, record):
        HERE.set("recorder")

    assert (await kit.runtime({"record_audit": records}).run(STEP)).ok
    assert HERE.get() == "caller"


async def test_a_recorder_that_waits_is_among_all_tasks_and_one_that_hangs_is_cut_off(kit):
    begun = asyncio.Event()

    async def records(context, record):
        begun.set()
        await asyncio.sleep(60)

    runtime = kit.runtime({"record_audit": records}, stages={"audit_ledger": {"timeout_ms": 50}})
    step = asyncio.create_task(runtime.run(STEP))
    await begun.wait()
    assert len(asyncio.all_tasks()) == 3
    assert (await step).code == "audit_ledger.record_failed"


async def test_a_recorder_that_cancels_its_own_task_at_once_does_not_go_on_waiting(kit):
    async def records(context, record):
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(60)
        finally:
            task.uncancel()

    async with asyncio.timeout(5):
        outcome = await kit.runtime({"record_audit": records}).run(STEP)
    assert outcome.code == "audit_ledger.record_failed"


async def test_the_task_of_a_recorder_that_did_not_wait_is_done_afterwards(kit):
    seen = []

    def records(context, record):
        seen.append(asyncio.current_task())

    assert (await kit.runtime({"record_audit": records}).run(STEP)).ok
    assert seen[0].done()
    assert seen[0].cancelling() == 0
