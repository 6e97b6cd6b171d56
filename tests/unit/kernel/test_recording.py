"""Intents before side effects, records whatever happens, and nothing raw in either."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from meshflow import Decision, NodeInput, Status
from meshflow.step import Purpose

SECRET = "hunter2"


def redacts(context):
    """Stage 8 of these tests: takes SECRET out, wherever it is asked to look."""
    return Decision.allow(replacement=_without(context.input))


def _without(value):
    if isinstance(value, str):
        return value.replace(SECRET, "***")
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item) for item in value]
    return value


async def test_the_intent_is_written_before_the_handler_runs(kit):
    order = []
    runtime = kit.runtime({"record_intent": lambda context: order.append("intent")})
    await runtime.run(NodeInput(node_id="n", handler=lambda value: order.append("handler")))
    assert order == ["intent", "handler"]


async def test_a_step_whose_intent_cannot_be_written_does_not_run(kit):
    def full(context):
        raise OSError("disk full")

    outcome = await kit.runtime({"record_intent": full}).run(NodeInput(node_id="n", input=1))
    assert (outcome.status, outcome.code) == (Status.DENIED, "audit_ledger.intent_failed")
    assert "execute_step" not in kit.plugin.calls


async def test_no_output_leaves_without_its_record(kit):
    def full(context, record):
        raise OSError("disk full")

    outcome = await kit.runtime({"record_audit": full}).run(NodeInput(node_id="n", input="precious"))
    assert (outcome.status, outcome.code) == (Status.FAILED, "audit_ledger.record_failed")
    assert (outcome.output, outcome.recorded) == (None, False)
    assert len(kit.plugin.settled) == 1


async def test_two_cancellations_while_recording_still_record(kit):
    recording, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context, record):
        recording.set()
        await go_on.wait()

    runtime = kit.runtime({"record_audit": slow})
    task = asyncio.create_task(runtime.run(NodeInput(node_id="n", input=1)))
    await recording.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.verdict.value for record in kit.plugin.records] == ["commit"]
    assert len(kit.plugin.settled) == 1


@pytest.mark.parametrize("hook", ["evaluate_policy", "execute_step"])
async def test_a_cancelled_step_is_recorded_as_an_error_and_settled(kit, hook):
    waiting = asyncio.Event()

    async def waits(context):
        waiting.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(kit.runtime({hook: waits}).run(NodeInput(node_id="n", input=1)))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = kit.plugin.records
    assert (record.code, record.verdict.value) == ("step.cancelled", "error")
    assert record.executed is (hook == "execute_step")
    assert len(kit.plugin.settled) == 1


async def test_a_failing_sla_or_settlement_does_not_change_the_outcome(kit, caplog):
    def broken(context, record):
        raise RuntimeError("boom")

    outcome = await kit.runtime({"record_sla": broken, "settle_step": broken}).run(NodeInput(node_id="n", input=1))
    assert outcome.ok
    assert "did not count" in caplog.text
    assert "not settled" in caplog.text


@pytest.mark.parametrize("hook", ["verify_identity", "limit_rate", "evaluate_policy", "authorize_tool"])
async def test_a_denied_steps_record_is_redacted_however_early_the_denial(kit, hook):
    runtime = kit.runtime(
        {hook: lambda context: Decision.deny("x.y", f"refused {SECRET}"), "scan_sensitive_data": redacts}
    )
    step = NodeInput(node_id="n", input={"note": SECRET}, metadata={"from": SECRET})
    outcome = await runtime.run(step)
    (record,) = kit.plugin.records
    assert record.input == {"note": "***"}
    assert record.metadata == {"from": "***"}
    assert SECRET not in repr(record)
    assert record.redaction == "stage"
    assert outcome.code == "x.y"


async def test_outputs_and_error_texts_are_redacted_in_the_record(kit):
    def falls(context):
        raise RuntimeError(f"cannot log in with {SECRET}")

    await kit.runtime({"execute_step": falls, "scan_sensitive_data": redacts}).run(NodeInput(node_id="n"))
    assert SECRET not in repr(kit.plugin.records[0])
    await kit.runtime({"scan_sensitive_data": redacts}).run(
        NodeInput(node_id="n", handler=lambda value: f"password {SECRET}")
    )
    assert kit.plugin.records[0].output == "password ***"


async def test_the_intent_holds_the_redacted_input(kit):
    await kit.runtime({"scan_sensitive_data": redacts}).run(NodeInput(node_id="n", input=f"x {SECRET}"))
    assert kit.plugin.intents == ["x ***"]


@pytest.mark.parametrize(
    "failing",
    [
        lambda context: 1 / 0,
        lambda context: True,
        lambda context: Decision.deny("sensitive_data_scan.no", "never"),
        lambda context: Decision.allow(replacement="another shape"),
    ],
)
async def test_what_cannot_be_scanned_is_withheld_from_the_record(kit, failing):
    def only_in_records(context):
        return failing(context) if context.purpose is Purpose.RECORD else None

    await kit.runtime({"scan_sensitive_data": only_in_records}).run(
        NodeInput(node_id="n", input=SECRET, handler=lambda value: value)
    )
    (record,) = kit.plugin.records
    assert SECRET not in repr(record)
    assert record.redaction == "withheld"
    assert "meshflow:withheld" in record.input


async def test_without_stage_eight_the_record_says_that_nothing_was_redacted(kit):
    runtime = kit.runtime(stages={"sensitive_data_scan": {"mode": "disabled", "use": None}})
    outcome = await runtime.run(NodeInput(node_id="n", input="plain"))
    assert outcome.record.redaction == "none"


async def test_settlement_runs_in_reverse_order_of_the_stages(kit):
    order = []
    first = kit.EveryStage({"settle_step": lambda context, record: order.append("rate")})
    last = kit.EveryStage({"settle_step": lambda context, record: order.append("output")})
    runtime = kit.runtime(
        stages={"rate_limiting": {"use": ["first"]}, "output_guardrails": {"use": ["last"]}},
        beside={"first": first, "last": last},
    )
    await runtime.run(NodeInput(node_id="n", input=1))
    assert order == ["output", "rate"]


@dataclass
class Report:
    note: str


class Model(BaseModel):
    note: str


@pytest.mark.parametrize("made", [Report, lambda text: Model(note=text)], ids=["dataclass", "pydantic"])
async def test_what_an_output_object_holds_is_recorded_redacted_and_the_caller_gets_the_object(kit, made):
    runtime = kit.runtime({"scan_sensitive_data": redacts})
    outcome = await runtime.run(NodeInput(node_id="n", handler=lambda value: made(f"x {SECRET}")))
    assert outcome.output.note == f"x {SECRET}"
    assert kit.plugin.records[0].output == {"note": "x ***"}
