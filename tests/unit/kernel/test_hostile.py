"""Plugins that raise, hang, block, lie, or reach for what is not theirs: each is a denial with a record."""

from __future__ import annotations

import asyncio
import time

import pytest

from meshflow import Decision, NodeInput, Status
from meshflow.stages import GATES

STEP = NodeInput(node_id="n", input={"amount": 5}, handler=lambda value: value["amount"])


class Panic(BaseException):
    """What a native extension raises when it falls."""


@pytest.mark.parametrize("stage", GATES, ids=lambda stage: stage.name)
async def test_an_exception_denies(kit, stage):
    def broken(context):
        raise RuntimeError("boom")

    outcome = await kit.runtime({stage.hook: broken}).run(STEP)
    assert (outcome.status, outcome.code) == (Status.DENIED, f"{stage.name}.stage_error")
    assert "RuntimeError: boom" in outcome.reason
    assert len(kit.plugin.records) == 1


@pytest.mark.parametrize("stage", GATES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("lie", [True, "allow", 1, {"effect": "allow"}, object()], ids=lambda lie: type(lie).__name__)
async def test_an_answer_that_is_no_decision_denies(kit, stage, lie):
    outcome = await kit.runtime({stage.hook: lie}).run(STEP)
    assert outcome.code == f"{stage.name}.invalid_decision"


async def test_a_panic_that_is_no_exception_denies(kit):
    def panics(context):
        raise Panic("native")

    outcome = await kit.runtime({"evaluate_policy": panics}).run(STEP)
    assert outcome.code == "policy_evaluation.stage_error"


async def test_a_plugin_that_raises_cancelled_error_by_itself_denies(kit):
    def cancels(context):
        raise asyncio.CancelledError

    outcome = await kit.runtime({"evaluate_policy": cancels}).run(STEP)
    assert outcome.code == "policy_evaluation.stage_error"


async def test_a_hook_that_hangs_is_cut_off(kit):
    async def hangs(context):
        await asyncio.sleep(60)

    begun = time.monotonic()
    runtime = kit.runtime({"evaluate_policy": hangs}, stages={"policy_evaluation": {"timeout_ms": 30}})
    outcome = await runtime.run(STEP)
    assert outcome.code == "policy_evaluation.stage_timeout"
    assert time.monotonic() - begun < 5


async def test_a_hook_that_blocks_the_loop_is_judged_by_the_clock(kit):
    async def blocks(context):
        time.sleep(0.05)
        return Decision.allow()

    runtime = kit.runtime({"evaluate_policy": blocks}, stages={"policy_evaluation": {"timeout_ms": 10}})
    outcome = await runtime.run(STEP)
    assert outcome.code == "policy_evaluation.stage_timeout"


async def test_a_hook_that_swallows_its_cancellation_is_judged_by_the_clock(kit):
    async def stubborn(context):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return Decision.allow()

    runtime = kit.runtime({"evaluate_policy": stubborn}, stages={"policy_evaluation": {"timeout_ms": 20}})
    outcome = await runtime.run(STEP)
    assert outcome.code == "policy_evaluation.stage_timeout"


async def test_a_timeout_error_of_the_plugins_own_is_an_error_not_a_timeout(kit):
    async def slow_backend(context):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(1)

    outcome = await kit.runtime({"evaluate_policy": slow_backend}).run(STEP)
    assert outcome.code == "policy_evaluation.stage_error"


@pytest.mark.parametrize("swallow", [True, False])
async def test_writing_to_the_context_denies_even_when_the_error_is_swallowed(kit, swallow):
    def writes(context):
        try:
            context.input = "mine"
        except AttributeError:
            if not swallow:
                raise
        return Decision.allow()

    outcome = await kit.runtime({"guard_input": writes}).run(STEP)
    assert outcome.status is Status.DENIED
    assert outcome.code in ("input_guardrails.context_written", "input_guardrails.stage_error")
    assert kit.plugin.records[0].input == {"amount": 5}


async def test_facts_cannot_be_written(kit):
    def writes(context):
        context.facts["tenant_scoping"] = None

    outcome = await kit.runtime({"evaluate_policy": writes}).run(STEP)
    assert outcome.code == "policy_evaluation.stage_error"


@pytest.mark.parametrize("hook", ["verify_identity", "limit_rate", "guard_input", "classify_risk", "authorize_tool"])
async def test_changing_the_input_in_place_denies(kit, answer, hook):
    def grabs(context):
        context.input["amount"] = 1_000_000
        return answer(hook)

    outcome = await kit.runtime({hook: grabs}).run(NodeInput(node_id="n", input={"amount": 5}))
    assert outcome.code.endswith(".input_mutated")
    assert "execute_step" not in kit.plugin.calls


async def test_changing_the_input_while_writing_the_intent_cannot_reach_the_handler(kit):
    def grabs(context):
        context.step.input["amount"] = 1_000_000

    outcome = await kit.runtime({"record_intent": grabs}).run(NodeInput(node_id="n", input={"amount": 5}))
    assert outcome.code == "execution.input_mutated"
    assert "execute_step" not in kit.plugin.calls


async def test_a_shadow_that_changes_the_input_denies_too(kit):
    def grabs(context):
        context.input["amount"] = 1_000_000
        return Decision.allow()

    shadow = kit.EveryStage({"evaluate_policy": grabs})
    runtime = kit.runtime(stages={"policy_evaluation": {"also_shadow": ["shade"]}}, beside={"shade": shadow})
    outcome = await runtime.run(NodeInput(node_id="n", input={"amount": 5}))
    assert outcome.code == "policy_evaluation.input_mutated"


async def test_an_executor_that_answers_nonsense_denies_and_says_that_it_ran(kit):
    outcome = await kit.runtime({"execute_step": True}).run(STEP)
    assert (outcome.code, outcome.record.executed) == ("execution.invalid_decision", True)


async def test_an_executor_that_raises_is_an_error_not_a_success(kit):
    def falls(context):
        raise RuntimeError("boom")

    outcome = await kit.runtime({"execute_step": falls}).run(STEP)
    assert (outcome.status, outcome.code) == (Status.FAILED, "execution.stage_error")
    assert outcome.record.cost_micro_usd == 500  # nobody knows, so all that was reserved
