"""``meshflow replay`` with the program that made a run: gone through again on what was recorded, without a call."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import typer

from meshflow.cli.replay_program import recorded_input

if TYPE_CHECKING:
    from .conftest import Shell

FLOW = """
name: orders
nodes:
  find: {kind: python, call: find}
  each: {kind: map, over: "${{ nodes.find.output }}", concurrency: 2, do: {kind: python, call: price}}
  ok: {kind: human, ask: "Pay for ${{ nodes.each.output }}?", input: "${{ nodes.each.output }}"}
  pay: {kind: python, call: pay, input: "${{ nodes.each.output }}", idempotent: true, retry: {max_attempts: 3}}
edges: [find -> each -> ok -> pay]
"""
CODE = """
from pathlib import Path
from meshflow.workflow import Registry

registry = Registry()
CALLS = Path("calls.txt")


def called(name):
    with CALLS.open("a") as file:
        file.write(name + "\\n")


@registry.function
def find(given):
    called("find")
    return ["lamp", "chair"]


@registry.function
def price(item):
    called("price")
    return {"item": item, "cents": len(item) * 100}


@registry.function
def pay(priced):
    called("pay")
    if CALLS.read_text().count("pay") == 1:
        raise RuntimeError("the bank is away")
    return sum(one["cents"] for one in priced)
"""
JOB = """
from pathlib import Path
from typing import TypedDict

from meshflow import END, StateGraph


class State(TypedDict):
    count: int


def step(state):
    with Path("calls.txt").open("a") as file:
        file.write("step\\n")
    return {"count": state["count"] + 1}


def enough(state):
    return "done" if state["count"] >= LIMIT else "again"


async def job(context):
    graph = (
        StateGraph(State)
        .add_node("step", step)
        .add_conditional_edges("step", enough, {"done": END, "again": "step"})
        .set_entry_point("step")
        .compile(runtime=context.runtime)
    )
    start = int(context.arguments[0]) if context.arguments else 0
    return await graph.ainvoke({"count": start}, {"run_id": context.run_id})
"""


@pytest.fixture
def orders(shell: Shell) -> Shell:
    """A run of a workflow that waited for a person, was resumed, and paid at the second try."""
    (shell.folder / "flow.yaml").write_text(FLOW)
    (shell.folder / "code.py").write_text(CODE)
    begun = shell("workflow", "run", "flow.yaml", "--with", "code.py", "--input", '"ada"', "--run-id", "o-1", "--json")
    (approval,) = begun.document["approvals"]
    assert shell("approvals", "approve", approval, "--as", "bob").code == 0
    resumed = ("workflow", "run", "flow.yaml", "--with", "code.py", "--run-id", "o-1", "--resume", "--json")
    assert shell(*resumed).document["output"] == 900
    return shell


def calls(shell: Shell) -> list[str]:
    return (shell.folder / "calls.txt").read_text().split()


def again(shell: Shell, *more: str) -> tuple[str, ...]:
    return ("replay", "o-1", "--workflow", "flow.yaml", "--with", "code.py", *more)


def test_a_workflow_is_gone_through_again_without_a_call_or_a_record(orders: Shell) -> None:
    before = calls(orders)
    with sqlite3.connect(orders.folder / "meshflow_runs.db") as db:
        count = db.execute("SELECT count(*) FROM entries").fetchone()
    done = orders(*again(orders, "--json"))
    assert (done.code, done.document["same"], done.document["differences"]) == (0, True, [])
    assert done.document["steps"] == done.document["replayed"] + 1  # the question is answered by the decision on it
    assert calls(orders) == before
    assert db.execute("SELECT count(*) FROM entries").fetchone() == count
    db.close()
    assert "nothing was called: the same as recorded" in orders(*again(orders)).out


def test_a_changed_workflow_stops_at_the_first_step_that_would_differ(orders: Shell) -> None:
    flow = orders.folder / "flow.yaml"
    flow.write_text(FLOW.replace("call: price}", 'call: price, input: "a ${{ item }}"}'))
    done = orders(*again(orders))
    assert done.code == 1
    assert "First difference: input of step 2 (each)" in done.out
    assert '  -"lamp"' in done.out
    assert '  +"a lamp"' in done.out
    without = "\n".join(one for one in FLOW.splitlines() if not one.startswith("  ok:"))
    flow.write_text(without.replace("each -> ok -> pay", "each -> pay"))
    found = orders(*again(orders, "--json")).document["differences"]
    assert [(one["what"], one["node_id"]) for one in found] == [("order", "ok")]
    without = "\n".join(one for one in FLOW.splitlines() if not one.startswith("  pay:"))
    flow.write_text(without.replace("each -> ok -> pay", "each -> ok"))
    found = orders(*again(orders, "--json")).document["differences"]
    assert [(one["what"], one["node_id"]) for one in found] == [("order", "pay")]


def test_another_input_or_another_policy_is_a_difference(orders: Shell) -> None:
    found = orders(*again(orders, "--input", '"bob"', "--json")).document["differences"]
    assert [(one["what"], one["node_id"], one["recorded"], one["now"]) for one in found] == [
        ("input", "@start", "ada", "bob")
    ]
    (orders.folder / "strict.yaml").write_text("plugins:\n  guardrails:\n    max_chars: 12\n")
    done = orders(*again(orders, "--config", "strict.yaml"))
    assert done.code == 1
    assert "First difference: decision of step" in done.out
    assert "+deny input_guardrails input_guardrails.too_long" in done.out


def test_a_job_with_a_graph_is_run_again_on_what_was_recorded(shell: Shell) -> None:
    (shell.folder / "job.py").write_text("LIMIT = 3\n" + JOB)
    assert shell("run", "job.py", "--run-id", "g-1", "--json").code == 0
    before = calls(shell)
    assert before.count("step") == 3
    done = shell("replay", "g-1", "--job", "job.py", "--json")
    assert (done.code, done.document["same"]) == (0, True), done.document
    other = shell("replay", "g-1", "--job", "job.py", "--json", "--", "1").document
    assert other["differences"][0]["what"] == "input"
    assert calls(shell) == before


PLAIN = """
from meshflow import NodeInput

async def job(context):
    for name in NAMES:
        await context.runtime.run(NodeInput(node_id=name, input=1, handler=lambda value: value, run_id=context.run_id))
"""


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "b"], "the program ends without step 2 (c)"),
        (["a", "b", "c", "d"], "the program takes a step of node d that the run does not have"),
        (["a", "c", "b"], "order of step 1 (b)"),
    ],
)
def test_a_program_that_goes_another_way_is_found(shell: Shell, names: list[str], said: str) -> None:
    (shell.folder / "job.py").write_text(f"NAMES = {['a', 'b', 'c']}\n" + PLAIN)
    assert shell("run", "job.py", "--run-id", "p-1").code == 0
    assert shell("replay", "p-1", "--job", "job.py").code == 0
    (shell.folder / "job.py").write_text(f"NAMES = {names}\n" + PLAIN)
    done = shell("replay", "p-1", "--job", "job.py")
    assert (done.code, f"First difference: {said}" in done.out) == (1, True), done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workflow", "flow.yaml", "--job", "job.py"), ("--with", "code.py"), ("--input", "1"), ("--", "word"),
        ("--workflow", "flow.yaml", "--with", "code.py", "--every"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(orders: Shell, arguments: tuple[str, ...]) -> None:
    assert orders("replay", "o-1", *arguments).code == 2


def test_a_run_whose_input_was_erased_asks_for_one(orders: Shell) -> None:
    assert orders("ledger", "erase", "o-1", "--fields", "input", "--reason", "r", "--authority", "dpo").code == 0
    refused = orders(*again(orders))
    assert (refused.code, "was erased; give one with --input" in refused.err) == (2, True), refused.err


def test_a_run_whose_input_was_masked_asks_for_it(orders: Shell) -> None:
    given = ("--input", '{"to": ["ada@example.com"]}')
    begun = orders("workflow", "run", "flow.yaml", "--with", "code.py", *given, "--run-id", "o-2", "--json")
    assert begun.code == 5, begun.err
    program = ("replay", "o-2", "--workflow", "flow.yaml", "--with", "code.py")
    refused = orders(*program)
    assert (refused.code, "masked or withheld; give it with --input" in refused.err) == (2, True), refused.err
    assert orders(*program, *given, "--json").document["differences"] == []


@pytest.mark.parametrize(
    ("redaction", "given", "refused"),
    [
        ("withheld", {"meshflow:withheld": {"type": "str"}}, True), ("none", "<p>a</p> <PERSON>", False),
        ("none", {"a": {"meshflow:unencodable": {"type": "object"}}}, True), ("stage", "<p>a</p>", False),
        ("none", [{"meshflow:unencodable": {"type": "object", "sha256": "00"}}], True),
        ("stage", ["<EMAIL_ADDRESS:0123456789abcdef01234567>"], True), ("stage", None, False),
    ],
)  # fmt: skip
def test_a_recorded_input_is_taken_only_where_it_is_the_real_one(redaction: str, given: Any, refused: bool) -> None:
    start = {"node_id": "@start", "erased": [], "redaction": redaction, "input_task": given}
    if refused:
        with pytest.raises(typer.BadParameter, match="give it with --input"):
            recorded_input("r", [start])
    else:
        assert recorded_input("r", [start]) == given
