"""The decision document: the same keys for every step, more of them at later stages."""

from __future__ import annotations

import pytest

from meshflow.clock import ManualClock
from meshflow.decision import Obligation
from meshflow.facts import Confidentiality, Finding, Findings, Origin, Principal, RiskTier, TaintLabels, TenantScope
from meshflow.policy import step_document
from meshflow.policy.encode import encode
from meshflow.policy.engine import COMPLIANCE, OUTPUT, POLICY, TOOLS
from meshflow.step import Approval, NodeInput, StepContext, StepState, StreamState

BASE = {
    "version", "stage", "time_us", "principal", "tenant", "run", "step", "node", "action", "tool", "arguments", "input",
    "estimate", "declared", "metadata", "approval",
}  # fmt: skip
LATE = BASE | {"risk", "labels", "findings", "obligations"}
PRINCIPAL = Principal("ana", "desk", "https://id.example", True, ("support",), "acme", token_id="t1")


def state(step: NodeInput) -> StepState:
    clock = ManualClock(5_000_000)
    state = StepState(step, "run-1", "step-1", clock, clock.now_us(), "f" * 64)
    state.facts.update(identity_verification=PRINCIPAL, tenant_scoping=TenantScope("acme"))
    return state


def test_a_tool_call_shows_its_arguments_and_no_input() -> None:
    step = NodeInput(
        node_id="n", kind="tool", tool="refund", action="refund.create", input={"cents": 7}, attempt=2,
        estimate_usd="0.25", estimate_tokens=9, risk="IRREVERSIBLE", idempotent=False, metadata={"ticket": "T-1"},
    )  # fmt: skip
    document = step_document(StepContext(state(step)), POLICY)
    assert document == {
        "version": 1,
        "stage": "policy_evaluation",
        "time_us": 5_000_000,
        "principal": {
            "subject": "ana",
            "agent_id": "desk",
            "issuer": "https://id.example",
            "verified": True,
            "roles": ("support",),
            "tenant": "acme",
        },
        "tenant": "acme",
        "run": {"run_id": "run-1"},
        "step": {"step_id": "step-1", "attempt": 2},
        "node": {"id": "n", "kind": "tool"},
        "action": "refund.create",
        "tool": "refund",
        "arguments": {"cents": 7},
        "input": None,
        "estimate": {"micro_usd": 250_000, "tokens": 9},
        "declared": {"risk": "irreversible", "idempotent": False},
        "metadata": {"ticket": "T-1"},
        "approval": None,
    }


def test_a_step_that_calls_no_tool_shows_its_input() -> None:
    document = step_document(StepContext(state(NodeInput(node_id="n", input="hello"))), COMPLIANCE)
    assert (document["input"], document["arguments"], document["stage"]) == ("hello", None, "compliance_profile")


def test_the_input_is_the_one_that_the_gates_left() -> None:
    changed = state(NodeInput(node_id="n", kind="tool", tool="t", input={"mail": "ana@example.com"}))
    changed.input = {"mail": "<EMAIL>"}
    assert step_document(StepContext(changed), TOOLS)["arguments"] == {"mail": "<EMAIL>"}


def test_each_stage_shows_what_is_known_by_then() -> None:
    context = StepContext(state(NodeInput(node_id="n")))
    assert set(step_document(context, POLICY)) == BASE
    assert set(step_document(context, COMPLIANCE)) == BASE
    assert set(step_document(context, TOOLS)) == LATE
    assert set(step_document(context, OUTPUT, "out")) == LATE | {"output", "stream"}


def test_risk_labels_findings_and_obligations_are_plain_values() -> None:
    late = state(NodeInput(node_id="n", kind="tool", tool="t", input={}))
    late.facts["risk_classification"] = RiskTier.EXTERNAL_IO
    late.facts["taint_propagation"] = TaintLabels(Origin.TOOL, Confidentiality.SECRET, ("s",))
    late.facts["sensitive_data_scan"] = Findings((Finding("US_SSN", "$.a", "mask", 0.9, 0, 11),))
    late.obligations = (Obligation("mask_entities", {"entities": ["US_SSN"]}),)
    document = step_document(StepContext(late), TOOLS)
    assert document["risk"] == "external_io"
    assert document["labels"] == {"origin": "tool", "confidentiality": "secret"}
    assert document["findings"] == [{"entity": "US_SSN", "path": "$.a", "action": "mask"}]
    assert document["obligations"] == [{"name": "mask_entities", "parameters": {"entities": ["US_SSN"]}}]
    assert isinstance(encode(document, 10_000), bytes)


def test_an_approval_and_a_stream_are_shown_without_what_they_hold() -> None:
    resumed = state(NodeInput(node_id="n"))
    resumed.approval = Approval("apr-1", "run-1", "step-1", True, "boss", "d", "salt", "f", 1, PRINCIPAL)
    resumed.stream = StreamState("released", False, 8)
    document = step_document(StepContext(resumed), OUTPUT, "next")
    assert document["approval"] == {"id": "apr-1", "approver": "boss", "approved": True}
    assert (document["output"], document["stream"]) == ("next", {"released_chars": 8, "final": False})


def test_an_estimate_that_is_no_amount_is_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        step_document(StepContext(state(NodeInput(node_id="n", estimate_usd=float("nan")))), POLICY)


def test_without_a_principal_the_key_is_there_and_null() -> None:
    bare = state(NodeInput(node_id="n"))
    bare.facts.clear()
    document = step_document(StepContext(bare), POLICY)
    assert (document["principal"], document["tenant"]) == (None, None)
