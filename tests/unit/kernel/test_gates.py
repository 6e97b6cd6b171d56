"""How answers combine on the way through the gates."""

from __future__ import annotations

import pytest

from meshflow import Decision, NodeInput, Obligation, Status
from meshflow.decision import UNSET
from meshflow.facts import RiskTier, TenantScope
from meshflow.stages import GATES, STAGES

STEP = NodeInput(node_id="double", input=21, handler=lambda value: value * 2)
SILENT_DENIERS = [stage for stage in GATES if stage.silence_denies]
SILENT_PASSERS = [stage for stage in GATES if not stage.silence_denies]


async def test_a_step_passes_the_fifteen_stages_in_order(kit):
    outcome = await kit.runtime().run(STEP)
    assert (outcome.status, outcome.output) == (Status.COMPLETED, 42)
    expected = [stage.hook for stage in STAGES]
    expected.insert(expected.index("execute_step"), "record_intent")
    assert kit.plugin.calls == [*expected, "settle_step"]


@pytest.mark.parametrize("stage", GATES, ids=lambda stage: stage.name)
async def test_a_denial_at_any_gate_ends_the_step_and_is_recorded(kit, stage):
    code = f"{stage.name}.test"
    outcome = await kit.runtime({stage.hook: Decision.deny(code, "because")}).run(STEP)
    assert (outcome.status, outcome.code, outcome.output) == (Status.DENIED, code, None)
    later = [other.hook for other in GATES if other.number > stage.number]
    assert not set(later) & set(kit.plugin.calls)
    assert "execute_step" not in kit.plugin.calls
    assert [record.code for record in kit.plugin.records] == [code]
    assert [record.executed for record in kit.plugin.settled] == [False]


@pytest.mark.parametrize("stage", SILENT_DENIERS, ids=lambda stage: stage.name)
async def test_silence_denies_where_the_table_says_so(kit, stage):
    outcome = await kit.runtime({stage.hook: None}).run(STEP)
    assert (outcome.status, outcome.code) == (Status.DENIED, f"{stage.name}.no_decision")


@pytest.mark.parametrize("stage", SILENT_PASSERS, ids=lambda stage: stage.name)
async def test_silence_passes_elsewhere(kit, stage):
    outcome = await kit.runtime({stage.hook: None}).run(STEP)
    assert outcome.ok


async def test_a_fact_of_another_type_denies(kit):
    outcome = await kit.runtime({"classify_risk": Decision.allow(fact=TenantScope("x"))}).run(STEP)
    assert outcome.code == "risk_classification.invalid_decision"


async def test_an_allowance_without_the_stages_fact_denies(kit):
    outcome = await kit.runtime({"verify_identity": Decision.allow()}).run(STEP)
    assert outcome.code == "identity_verification.invalid_decision"


async def test_a_denial_without_a_code_cannot_be_made(kit):
    with pytest.raises(ValueError, match="needs a code"):
        Decision.deny("no", "nothing")
    outcome = await kit.runtime({"evaluate_policy": lambda context: Decision.deny("", "x")}).run(STEP)
    assert outcome.code == "policy_evaluation.stage_error"


async def test_a_replaced_input_reaches_the_later_stages_and_the_handler(kit):
    seen = []

    def classify(context):
        seen.append(context.input)
        return Decision.allow(fact=RiskTier.INTERNAL)

    outcome = await kit.runtime({"guard_input": Decision.allow(replacement=5), "classify_risk": classify}).run(STEP)
    assert (outcome.output, seen) == (10, [5])


async def test_none_is_a_value_that_an_input_may_be_replaced_by(kit):
    step = NodeInput(node_id="n", input="x", handler=lambda value: value is None)
    outcome = await kit.runtime({"guard_input": Decision.allow(replacement=None)}).run(step)
    assert outcome.output is True
    assert Decision.allow().replacement is UNSET


async def test_the_input_cannot_be_replaced_after_it_was_scanned(kit):
    late = Decision.allow(fact=RiskTier.INTERNAL, replacement="unscanned")
    outcome = await kit.runtime({"classify_risk": late}).run(STEP)
    assert outcome.code == "risk_classification.invalid_decision"


async def test_deny_overrides_asks_every_provider_and_one_denial_stands(kit):
    second = kit.EveryStage({"guard_input": Decision.deny("input_guardrails.second", "no")})
    runtime = kit.runtime(stages={"input_guardrails": {"use": ["every", "second"]}}, beside={"second": second})
    outcome = await runtime.run(STEP)
    assert outcome.code == "input_guardrails.second"
    asked = [result.plugin for result in outcome.results if result.stage == "input_guardrails"]
    assert asked == ["every", "second"]


async def test_first_applicable_stops_at_the_first_answer(kit):
    second = kit.EveryStage({"classify_risk": Decision.deny("risk_classification.second", "never asked")})
    runtime = kit.runtime(stages={"risk_classification": {"use": ["every", "second"]}}, beside={"second": second})
    assert (await runtime.run(STEP)).ok
    assert "classify_risk" not in second.calls


async def test_first_applicable_goes_on_past_an_abstention(kit):
    second = kit.EveryStage({"classify_risk": Decision.allow(fact=RiskTier.IRREVERSIBLE)})
    runtime = kit.runtime(
        {"classify_risk": Decision.abstain("not mine")},
        stages={"risk_classification": {"use": ["every", "second"]}},
        beside={"second": second},
    )
    outcome = await runtime.run(STEP)
    assert outcome.record.risk == "irreversible"


async def test_an_obligation_that_a_later_provider_meets_lets_the_step_go_on(kit):
    duty = Obligation("mask_entities", {"entities": ["EMAIL_ADDRESS"]})
    seen = []

    def scan(context):
        seen.append(context.obligations)

    runtime = kit.runtime({"evaluate_policy": Decision.allow(obligations=(duty,)), "scan_sensitive_data": scan})
    outcome = await runtime.run(STEP)
    assert outcome.ok
    assert seen[0] == (duty,)


async def test_an_obligation_that_nobody_meets_denies_before_execution(kit):
    runtime = kit.runtime({"evaluate_policy": Decision.allow(obligations=(Obligation("notify_dpo"),))})
    outcome = await runtime.run(STEP)
    assert outcome.code == "policy_evaluation.obligation_unmet"
    assert "notify_dpo" in outcome.reason
    assert "execute_step" not in kit.plugin.calls


async def test_an_escalation_does_not_hide_a_later_denial(kit):
    runtime = kit.runtime(
        {
            "evaluate_policy": Decision.escalate("policy_evaluation.ask", "large"),
            "authorize_tool": Decision.deny("tool_permission.unknown_tool", "no such tool"),
        }
    )
    outcome = await runtime.run(STEP)
    assert (outcome.status, outcome.code) == (Status.DENIED, "tool_permission.unknown_tool")
    assert outcome.approval_id is None


async def test_a_read_only_step_leaves_no_intent(kit):
    await kit.runtime({"classify_risk": Decision.allow(fact=RiskTier.READ_ONLY)}).run(STEP)
    assert kit.plugin.intents == []


async def test_every_result_names_the_provider_that_gave_it(kit):
    outcome = await kit.runtime().run(STEP)
    assert {result.plugin for result in outcome.results} == {"every"}
    assert [result.stage for result in outcome.results] == [stage.name for stage in STAGES[:13]]
    assert all(result.elapsed_ns > 0 for result in outcome.results)


async def test_what_a_step_spends_and_reserves_is_in_its_record(kit):
    outcome = await kit.runtime().run(STEP)
    record = outcome.record
    assert (record.reserved_micro_usd, record.cost_micro_usd, record.tokens) == (500, 100, 7)
    assert record.overrun_micro_usd == 0
