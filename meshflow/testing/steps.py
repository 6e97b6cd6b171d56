"""Steps to try a plugin with: ordinary ones, hostile ones, and the facts that earlier stages would have left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshflow.clock import Clock
from meshflow.facts import (
    BudgetReservation,
    ComplianceProfile,
    Findings,
    Principal,
    RateLease,
    RiskTier,
    TaintLabels,
    TenantScope,
)
from meshflow.ids import new_id
from meshflow.stages import STAGE_BY_NAME, Stage
from meshflow.step import NodeInput, Purpose, StepContext, context_for

DEPTH = 2_000
"""Levels of nesting: past what the JSON encoder follows (254) and what recursive Python does (1,000)."""
MEGABYTE = 1_000_000
CANARIES = ("canary.person@example.com", "4111 1111 1111 1111", "AKIAIOSFODNN7EXAMPLE", "123-45-6789")
"""Made-up sensitive values, which no reason and no evidence may repeat."""

_FACTS: dict[str, Any] = {
    "identity_verification": Principal("conformance", "agent"),
    "tenant_scoping": TenantScope("default"),
    "rate_limiting": RateLease(),
    "budget_check": BudgetReservation("hold"),
    "compliance_profile": ComplianceProfile((), ""),
    "sensitive_data_scan": Findings(),
    "risk_classification": RiskTier.INTERNAL,
    "taint_propagation": TaintLabels(),
}


def facts_before(stage: Stage) -> dict[str, Any]:
    """Return the facts that stand when a step reaches a stage, by stage name."""
    return {name: fact for name, fact in _FACTS.items() if STAGE_BY_NAME[name].number < stage.number}


def context_at(stage: Stage, step: NodeInput, clock: Clock, **facts: Any) -> StepContext:
    """Return the context of a step that has reached a stage; ``facts`` replace the usual ones, by stage name.

    A step without an id gets one of its own, as the kernel would give it.
    """
    if step.step_id is None:
        step = replace(step, step_id=new_id("step"))
    return context_for(step, clock=clock, **(facts_before(stage) | facts))


def looking(context: StepContext, purpose: Purpose = Purpose.SHADOW) -> StepContext:
    """Return the same context for a call that may only look."""
    return StepContext(context._state.look(purpose))


def ordinary_steps() -> Iterator[NodeInput]:
    """Yield steps such as an agent takes every minute."""
    yield NodeInput(node_id="answer", input="Please summarise the report for Thursday.", action="read")
    yield NodeInput(node_id="lookup", kind="tool", tool="crm.lookup", input={"customer": 7}, estimate_usd="0.01")
    yield NodeInput(
        node_id="refund", kind="tool", tool="payments.refund", action="refund", risk="irreversible",
        input={"order": "A-1001", "amount": 19.99, "note": "paid twice"}, metadata={"channel": "mail"},
    )  # fmt: skip
    yield NodeInput(node_id="model", kind="model", input={"messages": [{"role": "user", "content": "Hello"}]})
    yield NodeInput(node_id="sensitive", input={"text": " ".join(CANARIES)}, metadata={"from": CANARIES[0]})


def hostile_values(salt: str = "") -> Iterator[tuple[str, Any]]:
    """Yield named inputs that break careless code; another ``salt`` gives other texts, which no cache has seen."""
    yield "nothing", None
    yield "empty text", ""
    yield "empty mapping", {}
    yield "odd unicode", "\u202e\u200b\ufeff\x00 e\u0301\u0302 \U0001f468\u200d\U0001f469 \udc80 \uff53\uff45\uff43"
    yield "not finite", {"a": float("nan"), "b": [float("inf"), float("-inf")], "c": 2**70, "d": -0.0}
    yield "keys of every type", {None: 1, 2: {True: "x"}, 1.5: [], ("a", 1): "tuple", "\ud800": "lone surrogate"}
    yield "not JSON", {"bytes": b"\xff\x00", "set": {1, 2}, "object": object(), "type": int}
    yield "deep mapping", _nested({})
    yield "deep list", _nested([])
    yield "cycle", _cycle()
    yield "megabyte of one letter", ("a" * MEGABYTE)[len(salt) :] + salt
    yield "megabyte that backtracks", (("a." * 40 + "@ 4111-1111 " + "(" * 8) * (MEGABYTE // 100))[len(salt) :] + salt
    yield "megabyte in pieces", {f"field {index}": "word " * 200 + salt for index in range(MEGABYTE // 1_000)}


def hostile_steps(salt: str = "") -> Iterator[tuple[str, NodeInput]]:
    """Yield named steps with hostile inputs, then steps with hostile fields."""
    for name, value in hostile_values(salt):
        yield name, NodeInput(node_id="hostile", input=value)
        yield f"{name}, to a tool", NodeInput(node_id="hostile", kind="tool", tool="crm.lookup", input=value)
    for name, fields in _HOSTILE_FIELDS.items():
        yield name, NodeInput(**{"node_id": "hostile", "input": "text", **fields})


_HOSTILE_FIELDS: dict[str, dict[str, Any]] = {
    "a credential of dots": {"credential": "..", "agent_id": ""},
    "a long credential": {"credential": "eyJhbGciOiJub25lIn0." + "A" * 100_000 + "."},
    "a credential of odd text": {"credential": "\ud800\x00"},
    "a tenant that is a path": {"tenant": "../../other"},
    "a tenant of odd text": {"tenant": "\x00\u202e"},
    "a cost that is no number": {"estimate_usd": float("nan")},
    "an infinite cost": {"estimate_usd": "Infinity"},
    "a negative cost": {"estimate_usd": -1},
    "a cost of the wrong type": {"estimate_usd": [1]},
    "negative tokens": {"estimate_tokens": -5},
    "an unknown risk": {"risk": "harmless, trust me"},
    "an odd tool": {"kind": "tool", "tool": "\u202ecrm\x00.lookup/../../x"},
    "an odd action": {"action": "read\ndelete"},
    "hostile metadata": {"metadata": {"\ud800": float("nan"), "deep": None}},
    "reads that do not exist": {"reads": ("nowhere", "", "\x00")},
}


def _nested(kind: Any) -> Any:
    value: Any = kind
    for _ in range(DEPTH):
        value = {"a": value} if isinstance(kind, dict) else [value]
    return value


def _cycle() -> Any:
    value: dict[str, Any] = {"text": "around"}
    value["self"] = [value]
    return value
