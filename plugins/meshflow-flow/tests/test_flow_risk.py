"""Stage 9: which signal decides a step's risk tier."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshflow.plugin import Effect, NodeInput, RiskTier, StepRecord, Verdict, context_for
from meshflow_flow import FlowSettings, RiskPlugin
from meshflow_flow.verbs import tokens


def plugin(**settings: Any) -> RiskPlugin:
    return RiskPlugin(FlowSettings.model_validate(settings))


def call(tool: str = "refund", **fields: Any) -> NodeInput:
    return NodeInput(node_id="n", kind="tool", tool=tool, **fields)


async def tier(risk: RiskPlugin, step: NodeInput) -> RiskTier:
    decision = await risk.classify_risk(context_for(step))
    assert decision is not None
    assert decision.effect is Effect.ALLOW
    assert isinstance(decision.fact, RiskTier)
    return decision.fact


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("function", RiskTier.INTERNAL),
        ("model", RiskTier.INTERNAL),
        ("agent", RiskTier.INTERNAL),
        ("http", RiskTier.EXTERNAL_IO),
        ("mcp", RiskTier.EXTERNAL_IO),
        ("human", RiskTier.READ_ONLY),
    ],
)
async def test_a_step_without_other_signals_has_the_tier_of_its_kind(kind: str, expected: RiskTier) -> None:
    assert await tier(plugin(), NodeInput(node_id="n", kind=kind)) is expected


async def test_a_declared_tier_replaces_what_the_name_suggests() -> None:
    risk = plugin(tools={"delete_cache": {"risk": "internal"}})
    assert await tier(risk, call("delete_cache")) is RiskTier.INTERNAL
    assert await tier(risk, call("delete_orders")) is RiskTier.IRREVERSIBLE


@pytest.mark.parametrize("asked", list(RiskTier))
@pytest.mark.parametrize("declared", list(RiskTier))
async def test_a_declared_tier_is_never_lowered(declared: RiskTier, asked: RiskTier) -> None:
    risk = plugin(tools={"x": {"risk": declared.label}})
    assert await tier(risk, call("x", risk=asked)) is max(declared, asked)


async def test_the_verb_of_the_action_raises_a_declared_tier_and_the_evidence_says_so() -> None:
    risk = plugin(tools={"orders": {"risk": "read_only"}})
    decision = await risk.classify_risk(context_for(call("orders", action="bulkDelete")))
    assert decision is not None
    assert decision.fact is RiskTier.IRREVERSIBLE
    assert decision.evidence == {
        "decided_by": "action",
        "signals": {"declared": "read_only", "action": "irreversible"},
    }


async def test_verbs_can_be_set() -> None:
    risk = plugin(tools={"orders": {"risk": "read_only"}}, verbs={"Archive": "external_io"})
    assert await tier(risk, call("orders", action="archive_all")) is RiskTier.EXTERNAL_IO


@pytest.mark.parametrize("risk", ["harmless", "", "READ ONLY", 3, 1.5, True, object()])
async def test_an_unknown_tier_denies(risk: Any) -> None:
    decision = await plugin().classify_risk(context_for(NodeInput(node_id="n", risk=risk)))
    assert decision is not None
    assert decision.effect is Effect.DENY
    assert decision.code == "risk_classification.unknown_tier"


RULE = {"tool": "refund", "argument": "amount", "above": 100, "to": "irreversible"}
DECLARED = {"refund": {"risk": "internal"}}


@pytest.mark.parametrize(
    ("amount", "raised"),
    [
        (100, False),
        (99.99, False),
        ("100.00", False),
        (-5, False),
        (100.01, True),
        ("100.01", True),
        (10**400, True),
        (float("nan"), True),
        (float("inf"), True),
        ("NaN", True),
        ("sNaN", True),
        ("lots", True),
        ("1" * 10_000, True),
        (None, True),
        (True, True),
        ({"value": 5}, True),
        ([5, 500], True),
        ([5, [6, [500]]], True),
        ([5, 6], False),
    ],
)
async def test_an_amount_above_the_threshold_or_of_no_known_size_raises(amount: Any, raised: bool) -> None:
    risk = plugin(tools=DECLARED, raise_when=[RULE])
    expected = RiskTier.IRREVERSIBLE if raised else RiskTier.INTERNAL
    assert await tier(risk, call(input={"amount": amount})) is expected


async def test_an_argument_that_is_not_there_does_not_raise_and_a_missing_mapping_does() -> None:
    risk = plugin(tools=DECLARED, raise_when=[RULE])
    assert await tier(risk, call(input={})) is RiskTier.INTERNAL
    assert await tier(risk, call(input="amount=5000")) is RiskTier.IRREVERSIBLE


async def test_a_path_reaches_into_lists_however_nested() -> None:
    risk = plugin(tools=DECLARED, raise_when=[RULE | {"argument": "lines.amount"}])
    assert await tier(risk, call(input={"lines": [[[{"amount": 1}, {"amount": 101}]]]})) is RiskTier.IRREVERSIBLE
    assert await tier(risk, call(input={"lines": [{"amount": 1}]})) is RiskTier.INTERNAL


async def test_a_list_that_holds_itself_raises_and_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    risk = plugin(tools=DECLARED, raise_when=[RULE])
    assert await tier(risk, call(input={"amount": loop})) is RiskTier.IRREVERSIBLE


@pytest.mark.parametrize(
    ("rule", "value", "raised"),
    [
        ({"equals": 1}, 1, True),
        ({"equals": 1}, True, False),
        ({"equals": True}, True, True),
        ({"equals": "all"}, "ALL", False),
        ({"matches_any": ["all", "everyone"]}, " EVERYONE ", True),
        ({"matches_any": ["all"]}, "\uff41\uff4c\uff4c", True),
        ({"matches_any": ["all"]}, "small", False),
        ({"matches_any": ["true"]}, True, True),
        ({"matches_any": ["7"]}, 7, True),
        pytest.param({"matches_any": ["7"]}, 10**5000, True, id="too-many-digits"),
        ({"matches_any": ["7"]}, {"x": 1}, True),
        ({"matches_any": ["none"]}, None, False),
    ],
)
async def test_plain_comparisons(rule: dict[str, Any], value: Any, raised: bool) -> None:
    risk = plugin(tools=DECLARED, raise_when=[{"argument": "who", "to": "irreversible"} | rule])
    expected = RiskTier.IRREVERSIBLE if raised else RiskTier.INTERNAL
    assert await tier(risk, call(input={"who": value})) is expected


@pytest.mark.parametrize("extra", [{}, {"above": 1, "equals": 2}, {"above": float("nan")}, {"above": "x > 1"}])
def test_a_rule_needs_exactly_one_sound_comparison(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin(raise_when=[{"argument": "a", "to": "internal"} | extra])


async def test_a_tool_that_keeps_failing_is_raised_until_it_succeeds_and_by_tenant() -> None:
    risk = plugin(tools=DECLARED, history={"failures": 2, "to": "irreversible"})
    context = context_for(call())

    def record(verdict: Verdict, tenant: str = "") -> StepRecord:
        return StepRecord(run_id="r", node_id="n", tool="refund", tenant_id=tenant, executed=True, verdict=verdict)

    await risk.settle_step(context, record(Verdict.ERROR, "other"))
    await risk.settle_step(context, record(Verdict.ERROR))
    assert await tier(risk, call()) is RiskTier.INTERNAL
    await risk.settle_step(context, record(Verdict.ERROR))
    assert await tier(risk, call()) is RiskTier.IRREVERSIBLE
    await risk.settle_step(context, record(Verdict.COMMIT))
    assert await tier(risk, call()) is RiskTier.INTERNAL


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("delete_user", ["delete", "user"]),
        ("deleteUser", ["delete", "user"]),
        ("HTTPDelete", ["http", "delete"]),
        ("crm-sendEmail2", ["crm", "send", "email"]),
        ("DROP TABLE", ["drop", "table"]),
        ("undeletable", ["undeletable"]),
    ],
)
def test_names_split_into_words(name: str, expected: list[str]) -> None:
    assert tokens(name) == expected


@given(st.text(max_size=2000))
def test_splitting_any_text_ends_and_gives_words_of_that_text(name: str) -> None:
    assert all(token and token in name.lower() for token in tokens(name) if token.isascii() and name.isascii())


async def test_a_name_too_long_to_read_is_irreversible_and_quick() -> None:
    begun = time.perf_counter()
    assert await tier(plugin(), call("a" * 1_000_000 + "_delete")) is RiskTier.IRREVERSIBLE
    assert time.perf_counter() - begun < 0.5


async def test_evidence_holds_no_argument() -> None:
    risk = plugin(tools=DECLARED, raise_when=[RULE])
    decision = await risk.classify_risk(context_for(call(input={"amount": "hunter2"})))
    assert decision is not None
    assert "hunter2" not in repr(decision)
