"""The published schemas hold for what the runtime really sends, and for what the engines really answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.plugin import Principal, StreamState, context_for
from meshflow.policy import (
    ENTRY_POINTS,
    PolicyAnswer,
    PolicyDuty,
    PolicyFailure,
    PolicyReason,
    parse_answer,
    step_document,
)
from meshflow.policy.engine import COMPLIANCE, OUTPUT, POLICY, TOOLS
from meshflow.policy.schema import answer_schema, input_schema
from meshflow.step import StepState

CHECKS = {entry.rule: jsonschema_rs.validator_for(input_schema(entry)) for entry in ENTRY_POINTS}


class Watching:
    """An engine that checks every document against the schema, and remembers which it saw."""

    name, version, bundle_digest = "watching", "1", "d" * 64

    def __init__(self, answer: PolicyAnswer | None = None) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.wrong: list[str] = []
        self.answer = answer or PolicyAnswer(True)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def has(self, entry_point: str) -> bool:
        return True

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        sent = orjson.loads(orjson.dumps(document, default=dict))
        self.seen.append((entry_point, sent))
        self.wrong += [f"{entry_point}: {error.message}" for error in CHECKS[entry_point].iter_errors(sent)]
        if entry_point == TOOLS.rule and not (document["approval"] or {}).get("approved"):
            return self.answer
        return PolicyAnswer(True, obligations=(PolicyDuty("mask_entities"),) if entry_point == POLICY.rule else ())


async def _parts(_: Any) -> AsyncIterator[str]:
    for part in ("one ", "two ", "three"):
        yield part


STEPS = {
    "a tool call": NodeInput(node_id="n", kind="tool", tool="refund", input={"id": 7, "to": "ana@example.com"}),
    "a function": NodeInput(node_id="n", input="hello"),
    "everything said": NodeInput(
        node_id="n", kind="model", input=["x", 1.5, None], action="ask", estimate_usd="0.25",
        estimate_tokens=12, metadata={"purpose": "test"}, risk="external_io", idempotent=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
async def test_what_the_runtime_sends_at_all_four_entry_points_is_valid(name: str) -> None:
    engine = Watching()
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=engine) as runtime:
        step = STEPS[name]
        outcome = await runtime.run(replace(step, handler=str))
    assert engine.wrong == []
    wanted = {POLICY.rule, COMPLIANCE.rule, TOOLS.rule} | ({OUTPUT.rule} if outcome.ok else set())
    assert {rule for rule, _ in engine.seen} == wanted


async def test_a_stream_and_an_approval_are_valid() -> None:
    engine = Watching(PolicyAnswer(True, escalate=True))
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=engine) as runtime:
        step = {"node_id": "n", "run_id": "r", "step_id": "s", "kind": "tool", "tool": "t", "input": {"a": 1}}
        paused = await runtime.run(NodeInput(**step, handler=lambda value: value))
        assert paused.approval_id is not None
        await ledger.decide_approval(paused.approval_id, approve=True, approver="bo")
        done = await runtime.run(NodeInput(**step, handler=lambda value: value, resume=True))
        assert done.ok, done.reason
        engine.answer = PolicyAnswer(True)
        async for _ in runtime.stream(NodeInput(node_id="m", input="x", handler=_parts)):
            pass
    assert engine.wrong == []
    assert any(document["approval"] for _, document in engine.seen)
    assert any(document.get("stream") for _, document in engine.seen)


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: entry.stage)
def test_a_context_without_any_fact_is_valid(entry: Any) -> None:
    document = orjson.loads(orjson.dumps(step_document(context_for(NodeInput(node_id="n")), entry), default=dict))
    CHECKS[entry.rule].validate(document)
    assert set(document) == set(input_schema(entry)["required"])


def test_the_schema_grows_along_the_way() -> None:
    fields = [set(input_schema(entry)["properties"]) for entry in (POLICY, COMPLIANCE, TOOLS, OUTPUT)]
    assert fields[0] == fields[1] < fields[2] < fields[3]


def test_a_stream_has_its_place() -> None:
    context = context_for(NodeInput(node_id="n"), identity_verification=Principal("ana", "desk"))
    state: StepState = object.__getattribute__(context, "_state")
    state.stream = StreamState("ab", False, 2)
    CHECKS[OUTPUT.rule].validate(orjson.loads(orjson.dumps(step_document(context, OUTPUT, "text"), default=dict)))


_json = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
_answers = st.dictionaries(
    st.sampled_from(["allow", "reasons", "obligations", "escalate", "escalte"]),
    _json
    | st.lists(
        st.dictionaries(
            st.sampled_from(["code", "message", "rule", "control", "name", "parameters", "x"]),
            _json | st.sampled_from(["a_b", "a.b", "A", "a" * 501]) | st.just({}),
            max_size=3,
        ),
        max_size=2,
    ),
    max_size=4,
)


@given(_answers)
def test_the_answers_schema_and_the_reader_agree(raw: Any) -> None:
    valid = jsonschema_rs.is_valid(answer_schema(), raw)
    assert valid is isinstance(parse_answer(raw), PolicyAnswer)


def test_an_answer_with_all_there_is_is_valid() -> None:
    raw = {
        "allow": True, "escalate": False, "obligations": [{"name": "mask", "parameters": {"a": 1}}],
        "reasons": [{"code": "a.b", "message": "m", "rule": "r", "control": "c"}],
    }  # fmt: skip
    jsonschema_rs.validate(answer_schema(), raw)
    reason = PolicyReason("a.b", "m", "r", "c")
    assert parse_answer(raw) == PolicyAnswer(True, (reason,), (PolicyDuty("mask", {"a": 1}),))
