"""An agent's run that a mesh pauses goes on where it stood; one that was killed does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

from meshflow import Agent, Status
from meshflow.agent import tool
from meshflow.errors import ConfigError
from meshflow.mesh import Mesh

Make = Callable[..., Mesh]


def answer(messages: Any, info: Any) -> ModelResponse:
    last = messages[-1].parts[-1]
    if last.part_kind == "user-prompt":
        return ModelResponse([ToolCallPart("look", {}, "c0")])
    return ModelResponse([TextPart(f"saw {last.content}")])


@pytest.mark.parametrize("target", [{"tool": "look"}, {"run": "run-1"}])
async def test_a_paused_agent_run_goes_on(make: Make, target: dict[str, str]) -> None:
    mesh, ran = make(), []

    async def look() -> str:
        ran.append(1)
        if "run" in target and len(ran) == 1:
            await mesh.pause(run="run-1", reason="lunch", authority="ops")
        return "it"

    mesh.register(Agent("bot", model=FunctionModel(answer), tools=[look]))
    if "tool" in target:
        await mesh.pause(**target, reason="lunch", authority="ops")
    paused = await mesh.run_agent("bot", "go", run_id="run-1")
    assert (paused.status, paused.code, paused.approvals) == (Status.PAUSED, "compliance_profile.paused", ())
    assert paused.checkpoint is not None
    if "tool" in target:
        assert (await mesh.resume_agent(paused.checkpoint)).status is Status.PAUSED
        await mesh.release(**target, reason="back", authority="ops")
    done = await mesh.resume_agent(paused.checkpoint)
    assert (done.status, done.output, len(ran)) == (Status.COMPLETED, "saw it", 1)


async def test_an_answer_that_a_person_gave_outlasts_a_pause(make: Make) -> None:
    mesh, ran = make(), []

    @tool(risk="irreversible")
    def look() -> str:
        ran.append(1)
        return "it"

    mesh.register(Agent("bot", model=FunctionModel(answer), tools=[look]))
    asked = await mesh.run_agent("bot", "go", run_id="run-1")
    await mesh.decide_approval(asked.approvals[0], approve=True, approver="grace")
    await mesh.pause(tool="look", reason="lunch", authority="ops")
    assert asked.checkpoint is not None
    held = await mesh.resume_agent(asked.checkpoint)
    assert (held.status, held.code, ran) == (Status.PAUSED, "compliance_profile.paused", [])
    await mesh.release(tool="look", reason="back", authority="ops")
    done = await mesh.resume_agent(held.checkpoint or asked.checkpoint)
    assert (done.status, done.output, ran) == (Status.COMPLETED, "saw it", [1])


async def test_to_resume_does_not_undo_a_kill(make: Make) -> None:
    mesh, ran = make(), []

    def look() -> str:
        ran.append(1)
        return "it"

    mesh.register(Agent("bot", model=FunctionModel(answer), tools=[look]))
    await mesh.pause(run="run-1", reason="lunch", authority="ops")
    paused = await mesh.run_agent("bot", "go", run_id="run-1")
    await mesh.kill(run="run-1", reason="enough", authority="ops")
    assert paused.checkpoint is not None
    stopped = await mesh.resume_agent(paused.checkpoint)
    assert (stopped.status, stopped.code, ran) == (Status.DENIED, "compliance_profile.killed", [])


async def test_an_agent_that_was_registered_is_governed_however_it_is_run(make: Make) -> None:
    mesh = make()
    agent = Agent("bot", model=FunctionModel(lambda messages, info: ModelResponse([TextPart("hi")])))
    mesh.register(agent)
    await mesh.kill(agent="bot", reason="stop", authority="ops")
    assert (await agent.run("hello")).code == "compliance_profile.killed"


async def test_an_agent_to_which_a_task_is_handed_obeys_the_switch(make: Make) -> None:
    mesh, ran = make(), []

    def look() -> str:
        ran.append(1)
        return "it"

    def ask(messages: Any, info: Any) -> ModelResponse:
        last = messages[-1].parts[-1]
        if last.part_kind == "user-prompt":
            return ModelResponse([ToolCallPart("ask_bot", {"task": "look"}, "c0")])
        return ModelResponse([TextPart("done")])

    mesh.register(
        Agent("boss", model=FunctionModel(ask), tools=[Agent("bot", model=FunctionModel(answer), tools=[look])])
    )
    await mesh.kill(tool="look", reason="stop", authority="ops")
    result = await mesh.run_agent("boss", "go")
    assert {step.node_id: step.code for step in result.steps}["bot.look"] == "compliance_profile.killed"
    assert ran == []


def test_an_agent_with_a_policy_of_its_own_is_not_taken_over(make: Make) -> None:
    agent = Agent("bot", model=FunctionModel(answer), policy="own.rego")
    with pytest.raises(ConfigError, match="a policy of its own"):
        make().register(agent)
