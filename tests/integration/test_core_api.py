"""The blocks of docs/reference/core-api.md run as they are written.

A test may only define the names that a block leaves free, supply the files and runs that it names, and wrap its await.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshflow import (
    LedgerError,
    NodeInput,
    ReplayLedger,
    RunDiff,
    RuntimeOutcome,
    StepRecord,
    WorkflowDefinition,
    WorkflowResult,
)

ROOT = Path(__file__).parents[2]
WORKFLOW = """\
nodes:
  topic: {kind: transform, input: "about: ${{ input }}"}
  title: {kind: transform, input: {title: "ABOUT: ${{ input }}"}}
edges: [topic -> title]
"""
PAGE = ROOT / "docs" / "reference" / "core-api.md"
POSTGRES = '"postgresql://user:pass@host/db"'


def block(name: str) -> str:
    """Return the code under a heading."""
    _, _, section = PAGE.read_text("utf-8").partition(f"\n## {name}\n")
    return section.partition("```python\n")[2].partition("```")[0]


async def run(source: str, **names: Any) -> dict[str, Any]:
    """Run a block with top-level await and return its names."""
    code = compile(source, str(PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
    return names


def record(run_id: str, number: int, **changes: Any) -> StepRecord:
    values: dict[str, Any] = {
        "run_id": run_id, "node_id": f"node-{number}", "step_id": f"step-{number}", "input": {"n": number},
        "output": f"answer {number}", "cost_micro_usd": 100, "tokens": 7, "executed": True,
    }  # fmt: skip
    return StepRecord(**(values | changes))


@pytest.fixture
async def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReplayLedger]:
    """The file and the runs that the blocks name."""
    monkeypatch.chdir(tmp_path)
    async with ReplayLedger("meshflow_runs.db") as ledger:
        for number in range(4):
            await ledger.write(record("run-id", number))
        for run_id, last, changes in (("run-a", 3, {}), ("run-b", 4, {"output": "another", "cost_micro_usd": 250})):
            await ledger.write(record(run_id, 0))
            await ledger.write(record(run_id, 1, **changes))
            await ledger.write(record(run_id, last))
        yield ledger


async def test_step_runtime(ledger: ReplayLedger) -> None:
    names = await run(
        block("StepRuntime"),
        ledger=ledger,
        policy=str(ROOT / "policies" / "authz"),
        node_input=NodeInput(node_id="shout", input="hello", handler=str.upper, run_id="governed"),
    )
    outcome = names["outcome"]
    assert isinstance(outcome, RuntimeOutcome)
    assert (outcome.ok, outcome.output, outcome.code) == (True, "HELLO", "")
    assert [one["node_id"] for one in await ledger.get_run("governed")] == ["shout"]
    await names["runtime"].aclose()


async def test_replay_ledger_on_sqlite(ledger: ReplayLedger) -> None:
    lines = block("ReplayLedger").splitlines(keepends=True)
    (other,) = [line for line in lines if POSTGRES in line]
    names = await run("".join(line for line in lines if line is not other), step_record=record("run-id", 4))
    assert [step["node_id"] for step in names["steps"]] == [f"node-{number}" for number in range(5)]
    assert names["run_ids"] == ["run-b", "run-a", "run-id"]
    assert (names["summary"]["steps"], names["summary"]["total_cost_usd"], names["summary"]["total_tokens"]) == (
        5, 0.0005, 35
    )  # fmt: skip
    assert (names["step"]["step_index"], names["step"]["output_content"]) == (2, "answer 2")
    assert isinstance(names["diff"], RunDiff)
    assert isinstance(names["new_id"], str)
    assert (names["chain"]["valid"], names["chain"]["steps_verified"]) == (True, 5)
    assert len(json.loads(names["json"])["steps"]) == 5
    assert names["csv"].count("\r\n") == 6
    assert isinstance(names["n"], int)
    assert await ledger.get_run("run-id") == []
    assert (await ledger.verify_chain("run-id"))["valid"]
    await names["ledger"].aclose()


async def test_replay_ledger_is_made_for_postgres_without_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def nowhere(host: object, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    (line,) = [line for line in block("ReplayLedger").splitlines() if POSTGRES in line]
    names = await run(f"from meshflow import ReplayLedger\n{line}\n")
    async with names["ledger"] as ledger:
        assert isinstance(ledger, ReplayLedger)
        assert asked == []
        with pytest.raises(LedgerError, match="the server cannot be reached"):
            await ledger.get_run("run-id")
        assert asked == ["host"], "the first read is what connects"


async def test_run_diff(ledger: ReplayLedger) -> None:
    names = await run(block("RunDiff"), ledger=ledger)
    diff = names["diff"]
    assert isinstance(diff, RunDiff)
    assert (diff.only_in_a, diff.only_in_b, diff.common) == (["node-3"], ["node-4"], ["node-0", "node-1"])
    (changed,) = diff.changed
    assert (changed["node_id"], changed["output_a"], changed["output_b"]) == ("node-1", "answer 1", "another")
    assert (diff.cost_delta_usd, diff.token_delta) == (0.00015, 0)


async def test_state_graph() -> None:
    names = await run(block("StateGraph"))
    assert names["result"] == {"messages": [], "count": 3}


async def test_workflow_definition(ledger: ReplayLedger) -> None:
    Path("workflow.yaml").write_text(WORKFLOW, "utf-8")
    names = await run(block("WorkflowDefinition"))
    result = names["result"]
    assert isinstance(result, WorkflowResult)
    assert (result.status, result.output) == ("completed", {"title": "ABOUT: summarize AI safety"})
    steps = await ledger.get_run(result.run_id)
    assert [step["node_id"] for step in steps] == ["@start", "topic", "title", "@end"]
    again = WorkflowDefinition.from_yaml("out.yaml")
    assert again == names["wf"] == WorkflowDefinition.from_yaml(names["yaml_str"])


def test_every_expression_of_the_blocks_is_evaluated_by_a_test() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert headings == [
        "StepRuntime",
        "ReplayLedger",
        "RunDiff",
        "StateGraph",
        "WorkflowDefinition",
        "Mesh (control plane)",
    ]
    assert PAGE.read_text("utf-8").count("```python\n") == len(headings)


async def test_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic_ai.models.test import TestModel

    from meshflow import Agent

    monkeypatch.chdir(tmp_path)
    told: list[Any] = []
    names = await run(
        block("Mesh (control plane)"),
        agent=Agent("writer", model=TestModel()),
        workflow_def=WorkflowDefinition.from_yaml(
            'nodes:\n  write: {kind: agent, agent: writer, input: "${{ input }}"}\n'
        ),
        handler=told.append,
    )
    mesh = names["mesh"]
    (run_id,) = await mesh.ledger.list_runs()
    assert "writer.model" in [step["node_id"] for step in await mesh.ledger.get_run(run_id)]
    await mesh.runtime.run(NodeInput(node_id="late", input="hello", handler=str.upper))
    await mesh.drain()
    assert [(event.kind, event.record.node_id) for event in told] == [("step_complete", "late")]
    await mesh.aclose()
