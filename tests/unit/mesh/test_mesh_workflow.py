"""Workflows run under the mesh: their agents are the mesh's, its stops hold, and its handlers hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel

from meshflow import Agent, WorkflowDefinition
from meshflow.mesh import Event, Mesh, MeshEvent
from meshflow.workflow import Registry

Make = Callable[..., Mesh]

TWO = WorkflowDefinition.from_yaml("""
version: 1
name: two
nodes:
  first: {kind: agent, agent: greeter, input: "${{ input }}"}
  second: {kind: python, call: shout, input: "${{ nodes.first.output }}", idempotent: true}
edges:
  - {from: first, to: second}
""")


def greeter() -> Agent:
    return Agent("greeter", model=FunctionModel(lambda messages, info: ModelResponse([TextPart("good day")])))


def registry() -> Registry:
    names = Registry()
    names.function(str.upper, name="shout")
    return names


async def test_an_agent_node_runs_under_the_mesh_in_the_workflows_run(make: Make, heard: Any) -> None:
    mesh = make()
    mesh.register(greeter())
    heard.listen(mesh)
    result = await mesh.run_workflow(TWO, input="hello", registry=registry())
    assert (result.status.value, result.output) == ("completed", "GOOD DAY")
    steps = await mesh.ledger.get_run(result.run_id)
    assert "greeter.model" in [step["node_id"] for step in steps]
    assert heard.kinds()[0] == MeshEvent.RUN_STARTED
    assert heard.kinds()[-1] == MeshEvent.RUN_ENDED
    assert heard.kinds().count(MeshEvent.STEP_COMPLETE) == len(steps)


async def test_a_kill_within_a_run_ends_it_as_not_completed(make: Make) -> None:
    mesh = make()
    mesh.register(greeter())

    async def kill(event: Event) -> None:
        await mesh.kill(run=str(event.run_id), reason="enough", authority="ops")

    names, ran = Registry(), []

    async def shout(text: str) -> str:
        await asyncio.sleep(0.2)
        ran.append(text)
        return text.upper()

    names.function(shout)
    mesh.on(MeshEvent.RUN_STARTED, kill)
    result = await mesh.run_workflow(TWO, input="hello", registry=names)
    assert result.status.value in ("cancelled", "denied")
    assert result.output is None
    assert ran == []


async def test_a_paused_run_goes_on_where_it_was(make: Make) -> None:
    mesh, ran = make(), []
    mesh.register(greeter())

    async def shout(text: str) -> str:
        ran.append(text)
        if len(ran) == 1:
            await mesh.pause(run="run-p", reason="wait", authority="ops")
            await asyncio.sleep(30)
        return text.upper()

    names = Registry()
    names.function(shout)
    first = await mesh.run_workflow(TWO, input="hello", run_id="run-p", registry=names)
    assert (first.status.value, first.output) == ("cancelled", None)
    assert [stop.code for stop in await mesh.stops()] == ["pause"]
    result = await mesh.resume_workflow(TWO, "run-p", registry=names)
    assert (result.status.value, result.output) == ("completed", "GOOD DAY")
    assert ran == ["good day", "good day"]
    assert await mesh.stops() == ()
    models = [step for step in await mesh.ledger.get_run("run-p") if step["node_id"] == "greeter.model"]
    assert len(models) == 1


SAGA = """\
nodes:
  book: {kind: python, call: book, compensate: {kind: python, call: unbook}}
  find: {kind: tool, tool: find, input: {what: "${{ input }}"}}
edges: [book -> find]
"""


async def test_a_run_that_meets_a_pause_waits_and_undoes_nothing(make: Make) -> None:
    """A paused tool once denied the run, which undid what it had done and could not be gone on with."""
    mesh, ran = make(), []
    names = Registry()
    for name in ("book", "unbook"):
        names.function(lambda given, name=name: ran.append(name), name=name)
    names.tool(lambda what: f"found {what}", name="find")
    wf = WorkflowDefinition.from_yaml(SAGA)
    await mesh.pause(tool="find", reason="wait", authority="ops")
    first = await mesh.run_workflow(wf, input="tea", run_id="run-w", registry=names)
    assert (first.status.value, first.node, first.code) == ("paused", "find", "compliance_profile.paused")
    assert (await mesh.resume_workflow(wf, "run-w", registry=names)).status.value == "paused"
    await mesh.release(tool="find", reason="go on", authority="ops")
    result = await mesh.resume_workflow(wf, "run-w", registry=names)
    assert (result.status.value, result.output, ran) == ("completed", "found tea", ["book"])


async def test_a_run_that_is_paused_before_its_first_step_goes_on_with_its_input(make: Make) -> None:
    mesh, names = make(), Registry()
    names.tool(lambda what: f"found {what}", name="find")
    wf = WorkflowDefinition.from_yaml("nodes:\n  find: {kind: tool, tool: find, input: {what: '${{ input }}'}}\n")
    await mesh.pause(run="run-q", reason="wait", authority="ops")
    first = await mesh.run_workflow(wf, input="tea", run_id="run-q", registry=names)
    assert first.status.value == "paused"
    result = await mesh.resume_workflow(wf, "run-q", registry=names)
    assert (result.status.value, result.output) == ("completed", "found tea")
