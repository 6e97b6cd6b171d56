"""What was done is undone with what it was done with, once for each time, and what could not be is told and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from meshflow import ConfigError, Metered, StepRuntime, WorkflowDefinition
from meshflow.workflow import NodeStatus, RunStatus


def fails(given: Any) -> None:
    raise RuntimeError(f"no {given}")


def fails_at(*wrong: Any) -> Any:
    return lambda given: fails(given) if given in wrong else given


LOOP = """\
nodes:
  charge: {kind: python, call: charge, compensate: {kind: python, call: refund, input: "${{ nodes.charge.output.id }}"}}
  look: {kind: transform}
  fail: {kind: python, call: fail}
edges:
  - charge -> look
  - {from: look, to: charge, when: nodes.charge.output.id < 3, loop: {max: 5}}
  - look -> fail
"""


async def test_each_round_of_a_loop_is_undone_with_what_it_put_out_itself(world: Any) -> None:
    numbers = count(1)
    world.function("charge", lambda _: {"id": next(numbers)})
    world.function("refund")
    world.function("fail", fails)
    assert (await world.run(LOOP)).status is RunStatus.FAILED
    assert [given for name, given in world.calls if name == "refund"] == [3, 2, 1]


ITEMS = """\
nodes:
  book:
    kind: map
    over: ${{ input }}
    concurrency: 1
    do:
      kind: python
      call: book
      compensate: {kind: python, call: unbook, input: "${{ index }}: ${{ output }} of ${{ item }}"}
"""


async def test_items_that_were_done_are_undone_when_another_fails(world: Any) -> None:
    world.function("book", lambda item: fails(item) if item == "c" else f"seat {item}")
    world.function("unbook")
    result = await world.run(ITEMS, ["a", "b", "c", "d"])
    assert (result.status, result.nodes["book"].undone) == (RunStatus.FAILED, NodeStatus.COMPLETED)
    assert [given for name, given in world.calls if name == "unbook"] == ["1: seat b of b", "0: seat a of a"]
    steps = await world.steps()
    assert steps[-2:] == ["book[1]~undo commit", "book[0]~undo commit"]


async def test_a_map_that_ran_out_of_time_undoes_the_items_that_were_done(world: Any) -> None:
    world.function("book", lambda item: asyncio.sleep(60) if item == "b" else item)
    world.function("unbook")
    result = await world.run(ITEMS.replace("concurrency: 1", "timeout_ms: 3000"), ["a", "b"])
    assert (result.code, world.called) == ("workflow.node_timeout", ["book", "book", "unbook"])


def test_a_map_is_undone_whole_or_item_by_item() -> None:
    with pytest.raises(ConfigError, match="not in both"):
        WorkflowDefinition.from_yaml(ITEMS + "    compensate: {kind: python, call: unbook}\n")


async def test_what_was_done_and_whose_output_was_withheld_is_undone(world: Any) -> None:
    world.function("pay", lambda _: "x" * 2_000_001)
    world.function("free", lambda _: "ok")
    text = "nodes:\n  pay: {kind: python, call: pay, compensate: {kind: python, call: free, input: '${{ input }}'}}\n"
    result = await world.run(text, "p1")
    assert (result.status, result.code) == (RunStatus.DENIED, "output_guardrails.too_long")
    assert result.nodes["pay"].undone is NodeStatus.COMPLETED
    assert world.calls[-1] == ("free", "p1")
    unsaid = text.replace(", input: '${{ input }}'", "")
    result = await world.run(unsaid, "p1", run_id=f"{world.run_id}-2")
    assert result.nodes["pay"].undone is NodeStatus.FAILED
    assert "workflow.output_unavailable: input: the output of pay was withheld" in result.nodes["pay"].reason


PERSON = """\
nodes:
  book: {kind: python, call: book, compensate: {kind: tool, tool: unbook, input: {}, risk: irreversible}}
  fail: {kind: python, call: fail}
edges: [book -> fail]
"""


async def test_undoing_that_waits_for_a_person_is_named_and_goes_on_after_approval(world: Any) -> None:
    world.function("book")
    world.function("unbook", tool=True)
    world.function("fail", fails)
    result = await world.run(PERSON)
    assert (result.status, result.nodes["book"].undone) == (RunStatus.FAILED, NodeStatus.PAUSED)
    (approval,) = result.approvals
    await world.ledger.decide_approval(approval, approve=True, approver="grace")
    again = await world.resume(PERSON)
    assert (again.status, again.approvals, again.nodes["book"].undone) == (
        RunStatus.FAILED, (), NodeStatus.COMPLETED,
    )  # fmt: skip
    assert world.called == ["book", "fail", "unbook"]


async def test_what_could_not_be_undone_may_be_tried_again_and_nothing_else(world: Any) -> None:
    down = [True]
    text = PERSON.replace(", risk: irreversible", "")
    world.function("book")
    world.function("unbook", lambda _: fails("line") if down else "ok", tool=True)
    world.function("fail", fails)
    assert (await world.run(text)).reason.endswith("1 of 1 could not be undone")
    assert (await world.resume(text)).nodes["book"].undone is NodeStatus.FAILED
    down.clear()
    result = await world.resume(text, retry_failed=True)
    assert (result.status, result.nodes["book"].undone) == (RunStatus.FAILED, NodeStatus.COMPLETED)
    assert world.called == ["book", "fail", "unbook", "unbook"]
    with pytest.raises(ConfigError, match="was undone"):
        await world.resume(text, retry_failed=True)


async def test_what_the_end_of_the_time_cut_off_says_that_it_may_have_had_its_effect(world: Any) -> None:
    world.function("slow", lambda _: asyncio.sleep(60))
    world.function("unbook")
    undo = "compensate: {kind: python, call: unbook}"
    result = await world.run(f"limits: {{timeout_ms: 1500}}\nnodes:\n  a: {{kind: python, call: slow, {undo}}}\n")
    assert (result.code, world.called) == ("workflow.timeout", ["slow"])
    assert (result.nodes["a"].status, result.nodes["a"].undone) == (NodeStatus.CANCELLED, None)
    assert "it may have had its effect, which is not undone" in result.nodes["a"].reason


WITHIN = """\
nodes:
  trip:
    kind: subgraph
    workflow:
      nodes:
        book: {kind: python, call: book, compensate: {kind: python, call: unbook}}
  fail: {kind: python, call: fail}
edges: [trip -> fail]
"""


async def test_what_is_undone_within_a_subgraph_is_told_there(world: Any) -> None:
    down = [True]
    world.function("book")
    world.function("unbook", lambda _: fails("line") if down else "ok")
    world.function("fail", fails)
    book = (await world.run(WITHIN)).nodes["trip"].inner["book"]
    assert (book.status, book.undone) == (NodeStatus.COMPLETED, NodeStatus.FAILED)
    assert "it could not be undone: " in book.reason
    down.clear()
    again = await world.resume(WITHIN, retry_failed=True)
    assert again.nodes["trip"].inner["book"].undone is NodeStatus.COMPLETED


async def test_what_is_undone_within_an_item_that_had_completed_is_told_there(world: Any) -> None:
    text = """\
nodes:
  trips:
    kind: map
    over: ${{ input }}
    concurrency: 1
    do:
      kind: subgraph
      workflow:
        nodes:
          book: {kind: python, call: book, compensate: {kind: python, call: unbook}}
          pay: {kind: python, call: pay}
        edges: [book -> pay]
"""
    world.function("book", lambda item: item)
    world.function("unbook", fails_at("a"))
    world.function("pay", fails_at("b"))
    trips = (await world.run(text, ["a", "b", "c"])).nodes["trips"]
    told = {name: (item.status, item.inner["book"].undone) for name, item in trips.inner.items()}
    assert told == {
        "[0]": (NodeStatus.COMPLETED, NodeStatus.FAILED), "[1]": (NodeStatus.FAILED, NodeStatus.COMPLETED),
    }  # fmt: skip
    done = await world.run(text, ["a"], run_id=f"{world.run_id}-2")
    assert (done.ok, done.nodes["trips"].inner) == (True, {})


async def test_undoing_is_tried_again_as_its_retry_says(world: Any) -> None:
    tries = count(1)
    world.function("book")
    world.function("unbook", lambda _: fails("yet") if next(tries) < 3 else "ok", tool=True)
    world.function("fail", fails)
    with pytest.raises(ConfigError, match=r"compensate\.retry: a failed attempt may have had its effect"):
        WorkflowDefinition.from_yaml(PERSON.replace("risk: irreversible", "retry: {}"))
    text = PERSON.replace("risk: irreversible", "idempotent: true, retry: {backoff_ms: 1}")
    result = await world.run(text)
    assert (result.nodes["book"].undone, world.called.count("unbook")) == (NodeStatus.COMPLETED, 3)


async def test_a_state_that_two_set_fails_the_run_and_both_are_undone(world: Any) -> None:
    for name in ("book", "unbook"):
        world.function(name)
    undo = "compensate: {kind: python, call: unbook}"
    text = (
        "state: {x: 0}\nstart: [a, b]\nnodes:\n"
        f"  a: {{kind: python, call: book, set: {{x: 1}}, {undo}}}\n"
        f"  b: {{kind: python, call: book, set: {{x: 2}}, {undo}}}\n"
    )
    result = await world.run(text)
    assert (result.code, world.called) == ("workflow.state_conflict", ["book", "book", "unbook", "unbook"])


@pytest.fixture
def declared(world: Any) -> Iterator[StepRuntime]:
    """A runtime whose operator declares what the tools are."""
    tools = {"wire": {"risk": "external_io"}, "send": {"idempotent": False}}
    runtime = StepRuntime(ledger=world.ledger, config={"tools": {"tools": tools}})
    yield runtime
    runtime.close()


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("tool: wire, risk: read_only, retry: {}", "tools.tools.wire declares 'external_io'; remove retry"),
        ("tool: send, idempotent: true", "tools.tools.send declares that it is not"),
    ],
)
async def test_a_file_cannot_call_harmless_what_the_operator_declares_is_not(
    world: Any, declared: StepRuntime, node: str, expected: str
) -> None:
    for name in ("wire", "send"):
        world.function(name, fails, tool=True)
    for text in (
        f"nodes:\n  a: {{kind: tool, {node}, input: {{}}}}\n",
        f"nodes:\n  a: {{kind: map, over: [1], do: {{kind: tool, {node}, input: {{}}}}}}\n",
        f"nodes:\n  a: {{kind: transform, compensate: {{kind: tool, {node}, input: {{}}}}}}\n",
    ):
        with pytest.raises(ConfigError, match=expected.replace("(", r"\(")):
            await world.run(text, runtime=declared)
    assert world.calls == []


async def test_a_run_that_was_cut_off_between_two_tries_uses_those_that_are_left(world: Any) -> None:
    tried = asyncio.Event()

    def odd(_: Any) -> None:
        tried.set()
        fails("yet")

    world.function("odd", odd)
    text = "nodes:\n  a: {kind: python, call: odd, idempotent: true, retry: {max_attempts: 3, backoff_ms: BACK}}\n"
    await_long = WorkflowDefinition.from_yaml(text.replace("BACK", "60000, max_backoff_ms: 60000"))
    running = asyncio.ensure_future(world.run(await_long))
    await tried.wait()
    while len(await world.steps()) < 2:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    tried.clear()
    running = asyncio.ensure_future(world.resume(await_long))
    async with asyncio.timeout(20):
        await tried.wait()
    assert world.called == ["odd", "odd"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_was_spent_before_a_run_was_resumed_counts_whatever_came_of_it(world: Any) -> None:
    long = ["x" * 2_000_001]
    world.function("pay", lambda _: Metered(long.pop() if long else "ok", cost_usd=0.4))
    text = """\
limits: {cost_usd: 1}
nodes:
  a: {kind: python, call: pay}
  b: {kind: python, call: pay, estimate_usd: 0.4}
edges: [a -> b]
"""
    first = await world.run(text)
    assert (first.status, first.cost_usd) == (RunStatus.DENIED, 0.4)
    result = await world.resume(text, retry_failed=True)
    assert (result.status, result.node, result.cost_usd) == (RunStatus.LIMIT_REACHED, "b", 0.8)
    assert result.steps == 2
