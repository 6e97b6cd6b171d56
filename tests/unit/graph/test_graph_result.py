"""``run`` says how a run ended, exactly, and raises only for what is wrong with the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest

from meshflow import Policy, ReplayLedger, Status, StepRuntime
from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import GraphRecursionError, InvalidRunError, InvalidUpdateError, NodeDeniedError
from meshflow.graph.markers import START, Command
from meshflow.graph.task import interrupt


class State(TypedDict):
    n: int


def one(function: Any) -> StateGraph:
    return StateGraph(State).add_node("a", function).add_edge(START, "a")


def test_completed_failed_and_paused_are_told_apart() -> None:
    done = one(lambda state: {"n": 2}).compile().run({"n": 1}, run_id="r")
    assert (done.status, done.ok, done.values, done.next, done.run_id) == (Status.COMPLETED, True, {"n": 2}, (), "r")
    assert done.unwrap() == {"n": 2}

    failed = one(lambda state: 1 / 0).compile().run({"n": 1})
    assert (failed.status, failed.values, failed.next) == (Status.FAILED, {"n": 1}, ("a",))
    assert isinstance(failed.error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        failed.unwrap()

    compiled = one(lambda state: {"n": interrupt("how many?")}).compile(MemoryCheckpoints())
    paused = compiled.run({"n": 1}, thread_id="t")
    assert (paused.status, paused.next, [asked.value for asked in paused.interrupts]) == (
        Status.PAUSED,
        ("a",),
        ["how many?"],
    )
    assert paused.values == {"n": 1}
    with pytest.raises(RuntimeError, match="how many"):
        paused.unwrap()
    assert compiled.run(Command(resume=7), thread_id="t").values == {"n": 7}


def test_next_names_what_has_not_finished_and_nothing_else() -> None:
    graph = one(lambda state: None).add_node("b", lambda state: interrupt("?")).add_edge(START, "b")
    paused = graph.compile(MemoryCheckpoints()).run({"n": 1}, thread_id="t")
    assert paused.next == ("b",)
    failing = one(lambda state: None).add_node("b", lambda state: 1 / 0).add_edge(START, "b")
    assert failing.compile().run({"n": 1}).next == ("b",)


def test_breakpoint_is_a_pause_and_not_an_end() -> None:
    compiled = one(lambda state: {"n": 2}).compile(MemoryCheckpoints(), interrupt_before=["a"])
    paused = compiled.run({"n": 1}, thread_id="t")
    assert (paused.status, paused.next) == (Status.PAUSED, ("a",))
    assert compiled.run(None, thread_id="t").ok


def test_what_is_wrong_with_the_call_is_raised() -> None:
    with pytest.raises(InvalidRunError):
        one(lambda state: None).compile(MemoryCheckpoints()).run({})
    with pytest.raises(InvalidUpdateError):
        one(lambda state: None).compile().run({"m": 1})
    with pytest.raises(GraphRecursionError):
        StateGraph(State).add_sequence([("a", dict), ("b", dict)]).add_edge(START, "a").compile().run(
            {"n": 1}, recursion_limit=1
        )


async def test_denied_and_waiting_nodes_are_the_status_of_the_run(tmp_path: Path) -> None:
    policy = Policy.from_rego("""
package meshflow.policy
decision := {"allow": allowed, "escalate": escalated}
default allowed := true
allowed := false if input.input.n == 1
default escalated := false
escalated if input.input.n == 2
""")
    async with (
        ReplayLedger(tmp_path / "ledger.db") as ledger,
        StepRuntime(ledger=ledger, policy=policy) as runtime,
    ):
        compiled = one(lambda state: None).compile(MemoryCheckpoints(), runtime=runtime)
        denied = await compiled.arun({"n": 1}, thread_id="d")
        assert (denied.status, denied.next) == (Status.DENIED, ("a",))
        assert denied.outcome is not None
        assert denied.outcome.code == "policy_evaluation.denied"
        with pytest.raises(NodeDeniedError):
            denied.unwrap()
        waiting = await compiled.arun({"n": 2}, thread_id="w")
        assert waiting.status is Status.PAUSED
        assert waiting.interrupts[0].id.startswith("apr-")
        alone = await one(lambda state: None).compile(runtime=runtime).arun({"n": 2})
        assert (alone.status, alone.ok) == (Status.PAUSED, False)
