"""Answers: only the documented shape counts, and each way to miss it denies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.decision import Effect
from meshflow.policy import PolicyAnswer, PolicyFailure, decision_from, parse_answer
from meshflow.policy.engine import CAUSES

EVIDENCE = {"engine": "regorus 0", "bundle_digest": "d"}


def test_a_full_answer_is_read() -> None:
    answer = parse_answer(
        {
            "allow": True,
            "escalate": True,
            "reasons": [{"code": "needs_approval", "message": "m", "rule": "r", "control": "c"}],
            "obligations": [{"name": "mask_entities", "parameters": {"entities": ["A"]}}, {"name": "log_full"}],
        }
    )
    assert isinstance(answer, PolicyAnswer)
    assert (answer.allow, answer.escalate) == (True, True)
    assert answer.reasons[0].control == "c"
    assert [duty.name for duty in answer.obligations] == ["mask_entities", "log_full"]
    assert answer.obligations[1].parameters == {}


@pytest.mark.parametrize(
    "raw",
    [
        None, True, 1, "allow", [], {}, {"escalate": True}, {"allow": True, "escalte": True},
        {"allow": True, "reasons": {}}, {"allow": True, "reasons": ["x"]}, {"allow": False, "reasons": [{"code": 1}]},
        {"allow": False, "reasons": [{"code": "Upper"}]}, {"allow": False, "reasons": [{"message": "no code"}]},
        {"allow": False, "reasons": [{"code": "a", "sever": "x"}]}, {"allow": True, "obligations": ["mask"]},
        {"allow": True, "obligations": [{"name": "Mask"}]}, {"allow": True, "obligations": [{"parameters": {}}]},
        {"allow": True, "obligations": [{"name": "m", "parameters": []}]},
        {"allow": True, "obligations": [{"name": "m", "params": {}}]},
        {"allow": False, "reasons": [{"code": f"c{i}"} for i in range(65)]},
    ],
)  # fmt: skip
def test_another_shape_is_malformed(raw: Any) -> None:
    answer = parse_answer(raw)
    assert isinstance(answer, PolicyFailure)
    assert answer.cause == "malformed_answer"


@pytest.mark.parametrize(
    "raw",
    [
        {"allow": None}, {"allow": 1}, {"allow": 0}, {"allow": "true"}, {"allow": [True]}, {"allow": {}},
        {"allow": True, "escalate": "yes"}, {"allow": True, "escalate": None}, {"allow": True, "escalate": 1},
    ],
)  # fmt: skip
def test_what_is_neither_true_nor_false_has_a_cause_of_its_own(raw: Any) -> None:
    answer = parse_answer(raw)
    assert isinstance(answer, PolicyFailure)
    assert answer.cause == "not_boolean"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["allow", "reasons", "escalate", "obligations", "code", "name"]), inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_comes_an_allow_needs_a_true_allow(raw: Any) -> None:
    decision = decision_from(parse_answer(raw), "policy_evaluation.", EVIDENCE)
    if decision.effect is not Effect.DENY:
        assert raw["allow"] is True


def test_a_denial_names_rules_codes_engine_and_bundle() -> None:
    raw = {
        "allow": False,
        "reasons": [{"code": "a", "rule": "r.a", "message": "too much"}, {"code": "b", "rule": "r.b"}],
    }
    decision = decision_from(parse_answer(raw), "policy_evaluation.", EVIDENCE)
    assert (decision.effect, decision.code) == (Effect.DENY, "policy_evaluation.denied")
    assert decision.reason == "refused by r.a: too much; refused by r.b"
    assert decision.evidence == {**EVIDENCE, "codes": ["a", "b"], "rules": ["r.a", "r.b"]}


def test_a_denial_without_reasons_says_so_and_many_are_counted() -> None:
    bare = decision_from(parse_answer({"allow": False}), "policy_evaluation.", EVIDENCE)
    assert "gave no reason" in bare.reason
    many = {"allow": False, "reasons": [{"code": f"c{i}"} for i in range(5)]}
    assert decision_from(parse_answer(many), "policy_evaluation.", EVIDENCE).reason.endswith("; and 2 more")


def test_not_allowed_denies_even_where_it_would_escalate() -> None:
    decision = decision_from(parse_answer({"allow": False, "escalate": True}), "policy_evaluation.", EVIDENCE)
    assert decision.effect is Effect.DENY


def test_an_escalation_keeps_its_obligations() -> None:
    raw = {"allow": True, "escalate": True, "obligations": [{"name": "mask_entities"}]}
    decision = decision_from(parse_answer(raw), "tool_permission.policy_", EVIDENCE)
    assert (decision.effect, decision.code) == (Effect.ESCALATE, "tool_permission.policy_escalated")
    assert [duty.name for duty in decision.obligations] == ["mask_entities"]


@pytest.mark.parametrize("cause", CAUSES)
def test_each_failure_denies_with_a_code_of_its_own(cause: str) -> None:
    decision = decision_from(PolicyFailure(cause, "why"), "policy_evaluation.", EVIDENCE)
    assert (decision.effect, decision.code, decision.reason) == (Effect.DENY, f"policy_evaluation.{cause}", "why")
    assert decision.evidence["cause"] == cause


def test_long_messages_are_cut() -> None:
    answer = parse_answer({"allow": False, "reasons": [{"code": "a", "message": "x" * 10_000}]})
    assert isinstance(answer, PolicyAnswer)
    assert len(answer.reasons[0].message) == 500
