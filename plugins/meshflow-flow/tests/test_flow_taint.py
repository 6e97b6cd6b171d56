"""Stage 10: labels follow data between the steps of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.plugin import (
    Confidentiality,
    Decision,
    Effect,
    Execution,
    Finding,
    Findings,
    NodeInput,
    Origin,
    Principal,
    StepContext,
    StepRecord,
    TaintLabels,
    TenantScope,
    context_for,
)
from meshflow.stages import EXECUTION, RISK
from meshflow_flow import FlowSettings, TaintPlugin
from meshflow_flow.memory import join


def plugin(**settings: Any) -> TaintPlugin:
    return TaintPlugin(FlowSettings.model_validate(settings))


async def decide(taint: TaintPlugin, step: NodeInput, tenant: str = "t", **facts: Any) -> Decision:
    decision = await taint.propagate_taint(context_for(step, tenant_scoping=TenantScope(tenant), **facts))
    assert decision is not None
    return decision


def as_executed(step: NodeInput, labels: TaintLabels, tenant: str = "t") -> tuple[StepContext, StepRecord]:
    context = context_for(step, tenant_scoping=TenantScope(tenant), taint_propagation=labels)
    record = StepRecord(
        run_id=context.run_id, node_id=step.node_id, step_id=context.step_id, tenant_id=tenant, executed=True
    )
    return context, record


async def run(taint: TaintPlugin, step: NodeInput, tenant: str = "t", **facts: Any) -> TaintLabels:
    """Pass a step through stage 10 and settle it as executed."""
    decision = await decide(taint, step, tenant, **facts)
    assert decision.effect is Effect.ALLOW
    labels = decision.fact
    assert isinstance(labels, TaintLabels)
    await taint.settle_step(*as_executed(step, labels, tenant))
    return labels


def step(step_id: str, kind: str = "function", **fields: Any) -> NodeInput:
    tool = {"tool": fields.pop("tool", "t")} if kind in ("tool", "mcp") else {}
    return NodeInput(node_id=step_id, step_id=step_id, kind=kind, **tool, **fields)


async def test_the_first_input_without_labels_is_a_users() -> None:
    labels = await run(plugin(), step("a"))
    assert (labels.origin, labels.confidentiality) == (Origin.USER, Confidentiality.INTERNAL)


@pytest.mark.parametrize(
    ("kind", "origin"),
    [
        ("tool", Origin.TOOL),
        ("mcp", Origin.EXTERNAL),
        ("http", Origin.EXTERNAL),
        ("human", Origin.USER),
        ("function", Origin.TRUSTED),
    ],
)
async def test_an_output_carries_what_was_read_joined_with_what_its_kind_emits(kind: str, origin: Origin) -> None:
    taint = plugin()
    await run(taint, step("a", kind, labels=TaintLabels()))
    assert (await run(taint, step("b", reads=("a",)))).origin is origin


async def test_a_declared_tool_emits_what_it_declares() -> None:
    taint = plugin(tools={"crm": {"emits": {"origin": "external", "confidentiality": "personal"}}})
    await run(taint, step("a", "tool", tool="crm", labels=TaintLabels()))
    labels = await run(taint, step("b", reads=("a",)))
    assert (labels.origin, labels.confidentiality) == (Origin.EXTERNAL, Confidentiality.PERSONAL)
    assert "tool:crm" in labels.sources


async def test_labels_travel_through_any_number_of_steps() -> None:
    taint = plugin()
    await run(taint, step("s0", "http", labels=TaintLabels()))
    for index in range(1, 50):
        await run(taint, step(f"s{index}", reads=(f"s{index - 1}",)))
    assert (await run(taint, step("end", reads=("s49",)))).origin is Origin.EXTERNAL


async def test_a_later_input_of_which_nobody_says_what_it_holds_carries_all_of_the_run() -> None:
    taint = plugin()
    await run(taint, step("a"))
    await run(taint, step("web", "http", labels=TaintLabels()))
    assert (await run(taint, step("c"))).origin is Origin.EXTERNAL
    assert (await run(taint, step("d", labels=TaintLabels()))).origin is Origin.TRUSTED
    assert (await run(taint, step("e", run_id="another"))).origin is Origin.USER


async def test_the_join_of_the_run_can_be_switched_off_by_setting() -> None:
    taint = plugin(unlabelled="first_input")
    await run(taint, step("web", "http", labels=TaintLabels()))
    assert (await run(taint, step("c"))).origin is Origin.USER


async def test_an_unknown_source_denies() -> None:
    taint = plugin()
    await run(taint, step("a"))
    decision = await decide(taint, step("b", reads=("a", "ghost")))
    assert decision.effect is Effect.DENY
    assert decision.code == "taint_propagation.unknown_source"


async def test_a_run_of_another_tenant_is_an_unknown_source() -> None:
    taint = plugin()
    await run(taint, step("a", "http"), tenant="one")
    assert (await decide(taint, step("b", reads=("a",)), tenant="two")).effect is Effect.DENY
    assert (await run(taint, step("c"), tenant="two")).origin is Origin.USER


async def test_a_step_that_did_not_execute_leaves_no_labels() -> None:
    taint = plugin()
    context, record = as_executed(step("a"), TaintLabels())
    await taint.settle_step(context, replace(record, executed=False))
    assert (await decide(taint, step("b", reads=("a",)))).effect is Effect.DENY


async def test_a_step_without_labels_at_settlement_counts_as_the_worst() -> None:
    taint = plugin()
    context = context_for(step("a"), tenant_scoping=TenantScope("t"))
    await taint.settle_step(context, StepRecord(run_id="run", node_id="a", step_id="a", executed=True))
    labels = await run(taint, step("b", reads=("a",)))
    assert (labels.origin, labels.confidentiality) == (Origin.EXTERNAL, Confidentiality.SECRET)


@pytest.mark.parametrize("labels", ["trusted", object(), TaintLabels(origin=0), TaintLabels(confidentiality="x")])  # type: ignore[arg-type]
async def test_labels_that_are_none_deny(labels: Any) -> None:
    decision = await decide(plugin(), step("a", labels=labels))
    assert decision.code == "taint_propagation.invalid_labels"


@pytest.mark.parametrize(
    ("entity", "action", "expected"),
    [
        ("EMAIL_ADDRESS", "allow", Confidentiality.PERSONAL),
        ("EMAIL_ADDRESS", "mask", Confidentiality.INTERNAL),
        ("SECRET", "allow", Confidentiality.SECRET),
        ("AWS_ACCESS_KEY", "allow", Confidentiality.SECRET),
        ("URL", "allow", Confidentiality.INTERNAL),
        ("ACME_ID", "allow", Confidentiality.TENANT),
        ("EMAIL_ADDRESS", "some new action", Confidentiality.PERSONAL),
    ],
)
async def test_findings_that_stay_in_the_text_raise_confidentiality(
    entity: str, action: str, expected: Confidentiality
) -> None:
    findings = Findings((Finding(entity, "$", action, 1.0, 0, 5),))
    labels = await run(plugin(entities={"ACME_ID": "tenant"}), step("a"), sensitive_data_scan=findings)
    assert labels.confidentiality is expected


ACT = {"name": "statement-to-customer", "tool": "t", "to": {"confidentiality": "tenant"}, "roles": ["finance"]}
PERSONAL = TaintLabels(Origin.EXTERNAL, Confidentiality.PERSONAL, ("x",))


@pytest.mark.parametrize(
    ("roles", "verified", "lowered"),
    [(("finance",), True, True), (("finance",), False, False), (("sales",), True, False), ((), True, False)],
)
async def test_declassification_needs_a_verified_role(roles: tuple[str, ...], verified: bool, lowered: bool) -> None:
    taint = plugin(declassify=[ACT])
    principal = Principal("p", "a", roles=roles, verified=verified)
    decision = await decide(taint, step("a", "tool", labels=PERSONAL), identity_verification=principal)
    labels = decision.fact
    assert labels.confidentiality is (Confidentiality.TENANT if lowered else Confidentiality.PERSONAL)
    assert labels.origin is Origin.EXTERNAL
    assert decision.evidence.get("declassified") == (["statement-to-customer"] if lowered else None)


async def test_declassification_never_raises_and_touches_no_other_tool() -> None:
    taint = plugin(declassify=[ACT])
    principal = Principal("p", "a", roles=("finance",), verified=True)
    public = await decide(taint, step("a", "tool", labels=TaintLabels()), identity_verification=principal)
    assert public.fact == TaintLabels()
    other = await decide(taint, step("a", "tool", tool="u", labels=PERSONAL), identity_verification=principal)
    assert other.fact == PERSONAL


async def never(*_: Any) -> None:
    raise AssertionError


async def test_a_handler_may_raise_the_labels_of_its_result_and_never_lower_them() -> None:
    taint = plugin()
    assert taint.wrap_stage(RISK, never) is None
    for handed, expected in ((PERSONAL, PERSONAL), (TaintLabels(), TaintLabels(Origin.TOOL))):
        answer = Execution(output=1, labels=handed)

        async def call_next(*_: Any, answer: Execution = answer) -> Execution:
            return answer

        wrapped = taint.wrap_stage(EXECUTION, call_next)
        assert wrapped is not None
        name = expected.origin.name
        context, record = as_executed(step(name, "tool", labels=TaintLabels()), TaintLabels())
        assert await wrapped(context) is answer
        await taint.settle_step(context, record)
        labels = await run(taint, step(f"after {name}", reads=(name,)))
        assert (labels.origin, labels.confidentiality) == (expected.origin, expected.confidentiality)


async def test_memory_is_bounded_and_forgetting_never_lowers_a_label() -> None:
    taint = plugin(max_runs=3, max_steps=5)
    await run(taint, step("web", "http", labels=TaintLabels()))
    for index in range(20):
        await run(taint, step(f"s{index}", labels=TaintLabels()))
    assert (await run(taint, step("z", reads=("web",)))).origin is Origin.EXTERNAL
    for index in range(5):
        await run(taint, step("a", run_id=f"r{index}"))
    assert (await decide(taint, step("z2", reads=("z",)))).effect is Effect.DENY
    runs = taint._memory._tenants["t"]
    assert list(runs) == ["r2", "r3", "r4"]


async def test_a_look_changes_nothing() -> None:
    from meshflow.step import Purpose

    taint = plugin()
    context, record = as_executed(step("a"), TaintLabels())
    look = StepContext(context._state.look(Purpose.EXPLAIN))
    await taint.settle_step(look, record)
    assert (await decide(taint, step("b", reads=("a",)))).effect is Effect.DENY


LABELS = st.builds(
    TaintLabels,
    st.sampled_from(Origin),
    st.sampled_from(Confidentiality),
    st.lists(st.text("abc", max_size=2), max_size=40).map(tuple),
)


@given(LABELS, LABELS)
def test_the_join_covers_both_and_its_sources_stay_few(one: TaintLabels, other: TaintLabels) -> None:
    both = join(one, other)
    assert both.origin is max(one.origin, other.origin)
    assert both.confidentiality is max(one.confidentiality, other.confidentiality)
    assert len(both.sources) <= max(16, len(one.sources))
    assert join(both, other) == both or len(both.sources) >= 16
