from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.errors import LedgerError
from meshflow.ledger.player import Player
from meshflow.record import Status, StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]
Program = Callable[[Any], Any]


def handler(value: Any) -> Any:
    return f"did {value}"


def never(value: Any) -> Any:
    raise AssertionError(f"a replay called a handler with {value!r}")


def node(name: str, value: Any, call: Callable[[Any], Any] = handler, **more: Any) -> NodeInput:
    return NodeInput(node_id=name, input=value, handler=call, run_id="run", **more)


async def program(runtime: Any) -> str:
    first = await runtime.run(node("plan", "trip"))
    second = await runtime.run(node("book", first.output))
    return str(second.output)


@pytest.fixture
async def runtime(ledger: ReplayLedger) -> AsyncIterator[StepRuntime]:
    async with StepRuntime(ledger=ledger) as runtime:
        yield runtime


@pytest.fixture
async def recorded(runtime: StepRuntime) -> str:
    await program(runtime)
    return "run"


def program_of(*nodes: NodeInput) -> Program:
    async def steps(runtime: Any) -> None:
        for one in nodes:
            await runtime.run(replace(one, handler=never))

    return steps


async def test_a_program_runs_again_on_recorded_outputs_without_a_call(ledger: ReplayLedger, recorded: str) -> None:
    async def again(player: Player) -> str:
        first = await player.run(node("plan", "trip", never))
        assert (first.status, first.ok, first.output) == (Status.COMPLETED, True, "did trip")
        second = await player.run(node("book", first.output, never))
        return str(second.unwrap())

    replay = await ledger.replay(recorded, again)
    assert (replay.same, replay.steps, replay.replayed) == (True, 2, 2)
    assert replay.result == "did did trip"
    assert len(await ledger.get_run(recorded)) == 2


async def test_the_same_runtime_decides_the_same(ledger: ReplayLedger, recorded: str, runtime: StepRuntime) -> None:
    replay = await ledger.replay(recorded, program_of(node("plan", "trip"), node("book", "did trip")), runtime=runtime)
    assert replay.same
    alone = await ledger.replay(recorded, runtime=runtime, fingerprints=True)
    assert (alone.same, alone.replayed) == (True, 2)
    assert alone.fingerprints == [alone.fingerprint]


@pytest.mark.parametrize(
    ("nodes", "what", "index", "then", "now"),
    [
        ([node("plan", "trap")], "input", 0, "trip", "trap"),
        ([node("plan", "trip", kind="model")], "kind", 0, "function", "model"),
        ([node("plan", "trip", kind="tool", tool="t")], "kind", 0, "function", "tool"),
        ([node("plan", "trip", action="read")], "action", 0, None, "read"),
        ([node("book", "did trip")], "order", 0, "plan", "book"),
        ([node("plan", "trip"), node("fly", 1)], "extra", None, None, "fly"),
        ([node("plan", "trip"), node("plan", "trip")], "extra", None, None, "plan"),
        ([node("plan", "trip")], "missing", 1, "book", None),
        ([], "missing", 0, "plan", None),
    ],
)
async def test_a_replay_stops_at_the_first_step_that_would_now_differ(
    ledger: ReplayLedger, recorded: str, nodes: list[NodeInput], what: str, index: int | None, then: Any, now: Any
) -> None:
    replay = await ledger.replay(recorded, program_of(*nodes, node("plan", "again")) if nodes else program_of())
    if what == "missing":
        replay = await ledger.replay(recorded, program_of(*nodes))
    difference = replay.difference
    assert difference is not None
    assert (difference.what, difference.step_index, difference.recorded, difference.now) == (what, index, then, now)
    assert not replay.same


async def test_a_program_that_swallows_the_stop_gets_no_further(ledger: ReplayLedger, recorded: str) -> None:
    async def stubborn(player: Player) -> str:
        for value in ("trap", "trip", "trip"):
            try:
                await player.run(node("plan", value, never))
            except LedgerError:
                continue
        return "ended"

    replay = await ledger.replay(recorded, stubborn)
    assert (replay.replayed, len(replay.differences), replay.result) == (0, 1, "ended")


async def test_what_a_program_raises_is_reported_with_the_step_it_did_not_reach(
    ledger: ReplayLedger, recorded: str
) -> None:
    async def broken(player: Player) -> None:
        await player.run(node("plan", "trip", never))
        raise ValueError("no more")

    replay = await ledger.replay(recorded, broken)
    assert replay.error == "ValueError: no more"
    assert replay.difference is not None
    assert (replay.difference.what, replay.difference.now) == ("missing", "ValueError: no more")


async def test_a_denial_is_replayed_as_a_denial(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(verdict=Verdict.REJECT, code="budget_check.exhausted", reason="cap reached", output=None))

    async def again(player: Player) -> Any:
        return await player.run(NodeInput(node_id="node-0", input={"text": "question 0"}, handler=never))

    replay = await ledger.replay("run-1", again)
    assert replay.same
    outcome = replay.result
    assert (outcome.status, outcome.output, outcome.code, outcome.reason) == (
        Status.DENIED, None, "budget_check.exhausted", "cap reached"
    )  # fmt: skip
    assert outcome.record.principal is not None
    assert outcome.record.principal.subject == "alice"
    assert outcome.record.results[1].evidence == {"tier": "internal"}


async def test_attempts_are_answered_in_order(ledger: ReplayLedger, record: MakeRecord) -> None:
    failed = {"verdict": Verdict.ERROR, "code": "execution.failed", "output": None}
    await ledger.write(record(0, step_id="s", node_id="n", attempt=1, input=1, **failed))
    await ledger.write(record(1, step_id="s", node_id="n", attempt=2, input=1, output="fine"))

    async def again(player: Player) -> list[Status]:
        return [(await player.run(NodeInput(node_id="n", input=1, step_id="s"))).status for _ in range(2)]

    replay = await ledger.replay("run-1", again)
    assert replay.same
    assert replay.result == [Status.FAILED, Status.COMPLETED]


async def test_steps_that_ran_at_once_may_come_in_either_order(ledger: ReplayLedger, record: MakeRecord) -> None:
    second = 1_000_000
    for number, (name, begun) in enumerate([("slow", 0), ("fast", 1)]):
        await ledger.write(
            record(number, node_id=name, input=name, started_us=(100 + begun) * second, duration_ns=5 * second * 1_000)
        )
    for order in (("slow", "fast"), ("fast", "slow")):
        replay = await ledger.replay("run-1", program_of(*(NodeInput(node_id=one, input=one) for one in order)))
        assert replay.same, replay.difference


async def test_steps_inside_of_a_step_are_not_asked_for(ledger: ReplayLedger, record: MakeRecord) -> None:
    second = 1_000_000
    await ledger.write(record(0, node_id="inner", input=1, started_us=101 * second, duration_ns=second * 1_000))
    await ledger.write(record(1, node_id="outer", input=2, started_us=100 * second, duration_ns=9 * second * 1_000))
    replay = await ledger.replay("run-1", program_of(NodeInput(node_id="outer", input=2)))
    assert replay.same


async def test_an_erased_input_is_undecidable(ledger: ReplayLedger, recorded: str, runtime: StepRuntime) -> None:
    await ledger.erase_payloads(recorded, fields=["input"], reason="request", authority="dpo")
    replay = await ledger.replay(recorded, program_of(node("plan", "other"), node("book", "did trip")))
    found = [(0, "input", "erased"), (1, "input", "erased")]
    assert [(one["step_index"], one["what"], one["why"]) for one in replay.undecidable] == found
    assert replay.difference is None
    assert not replay.same
    decided = await ledger.replay(recorded, runtime=runtime)
    assert [one["why"] for one in decided.undecidable] == ["the input on record is erased"] * 2


async def test_an_erased_output_ends_the_replay(ledger: ReplayLedger, recorded: str) -> None:
    await ledger.erase_payloads(recorded, fields=["output"], reason="request", authority="dpo")
    replay = await ledger.replay(recorded, program_of(node("plan", "trip"), node("book", "did trip")))
    assert replay.stopped == "the output of step 0 (plan) is erased"
    assert (replay.difference, replay.replayed, replay.same) == (None, 0, False)


@pytest.mark.parametrize(
    "given", [{"input": {"a": "\ud800"}}, {"input": b"bytes"}, {"input": "x", "metadata": {"k": object()}}]
)
async def test_what_is_on_record_as_a_digest_is_not_decided_upon_as_if_it_were_the_value(
    ledger: ReplayLedger, runtime: StepRuntime, given: dict[str, Any]
) -> None:
    await runtime.run(NodeInput(node_id="odd", handler=never, run_id="run", **given))
    (step,) = await ledger.get_run("run")
    assert step["code"] == "policy_evaluation.unencodable_input"
    replay = await ledger.replay("run", runtime=runtime)
    assert replay.differences == []
    assert [one["why"] for one in replay.undecidable] == ["the input on record is unencodable"]


async def test_an_erased_principal_leaves_another_decision_undecidable(ledger: ReplayLedger, recorded: str) -> None:
    await ledger.erase_payloads(recorded, fields=["principal"], reason="request", authority="dpo")
    async with ReplayLedger(":memory:") as nowhere, StepRuntime(ledger=nowhere, config=STRICT) as strict:
        replay = await ledger.replay(recorded, runtime=strict)
    assert [one["why"] for one in replay.undecidable] == ["who asked is not on record"] * 2
    assert replay.difference is None


async def test_a_redacted_input_is_undecidable_without_a_runtime_and_decided_with_one(
    ledger: ReplayLedger, runtime: StepRuntime
) -> None:
    text = "call me on +1 212 555 0187"
    await runtime.run(node("note", text))
    replay = await ledger.replay("run", program_of(node("note", text)))
    assert [one["why"] for one in replay.undecidable] == ["redacted", "redacted"]
    decided = await ledger.replay("run", program_of(node("note", text)), runtime=runtime)
    assert [one["what"] for one in decided.undecidable] == ["output"]
    other = await ledger.replay("run", program_of(node("note", "write to a@example.org")), runtime=runtime)
    assert other.difference is not None
    assert other.difference.what == "input"


STRICT = {"plugins": {"guardrails": {"max_chars": 3}}}


async def test_another_configuration_is_compared_decision_by_decision(ledger: ReplayLedger, recorded: str) -> None:
    async with ReplayLedger(":memory:") as nowhere, StepRuntime(ledger=nowhere, config=STRICT) as strict:
        replay = await ledger.replay(recorded, runtime=strict, every=True)
        assert [one.step_index for one in replay.differences] == [0, 1]
        assert replay.differences[0].recorded == ("allow", "", "")
        assert replay.differences[0].now == ("deny", "input_guardrails", "input_guardrails.too_long")
        first = await ledger.replay(recorded, runtime=strict)
        assert (first.replayed, len(first.differences)) == (1, 1)
        played = await ledger.replay(recorded, program_of(node("plan", "trip")), runtime=strict)
        assert played.difference is not None
        assert played.difference.what == "decision"
        marked = await ledger.replay(recorded, program_of(node("plan", "trip")), fingerprints=True, runtime=strict)
        assert marked.difference is not None
        assert marked.difference.what == "fingerprint"


async def test_unknown_runs_and_replays_of_nothing_are_refused(ledger: ReplayLedger, recorded: str) -> None:
    with pytest.raises(LedgerError, match="no step of run"):
        await ledger.replay("nowhere", program_of())
    with pytest.raises(LedgerError, match="no step of run"):
        await ledger.replay(recorded, program_of(), tenant="globex")
    with pytest.raises(LedgerError, match="needs the steps"):
        await ledger.replay(recorded)


async def test_a_long_run_is_replayed_in_linear_time(ledger: ReplayLedger, record: MakeRecord) -> None:
    await asyncio.gather(*(ledger.write(record(number, node_id="loop", input=number)) for number in range(3_000)))
    spent = []
    for count in (750, 3_000):

        async def loop(player: Player, count: int = count) -> None:
            for number in range(count):
                await player.run(NodeInput(node_id="loop", input=number, handler=never))

        began = time.process_time()
        replay = await ledger.replay("run-1", loop)
        spent.append(time.process_time() - began)
        assert replay.replayed == count
    assert spent[1] < 8 * spent[0]
