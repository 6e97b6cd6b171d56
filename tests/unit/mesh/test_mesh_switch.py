"""What was stopped takes no further step, in any process that shares the ledger, until it is released."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel

from meshflow import Agent, LedgerError, NodeInput, Policy, ReplayLedger, Status
from meshflow.mesh import Mesh, MeshEvent

Make = Callable[..., Mesh]


def step(**fields: Any) -> NodeInput:
    return NodeInput(**{"node_id": "n", "input": "hello", "handler": lambda value: "ran", "run_id": "run-1", **fields})


@pytest.mark.parametrize(
    ("target", "caught", "other"),
    [
        ({"run": "run-1"}, {}, {"run_id": "run-2"}),
        ({"agent": "bot"}, {"agent_id": "bot"}, {"agent_id": "another"}),
        ({"tool": "note"}, {"kind": "tool", "tool": "note", "input": {}},
         {"kind": "tool", "tool": "look", "input": {}}),
        ({"tenant": "default"}, {}, None),
        ({"agent": "bot", "tool": "note"}, {"agent_id": "bot", "kind": "tool", "tool": "note", "input": {}},
         {"agent_id": "bot", "kind": "tool", "tool": "look", "input": {}}),
    ],
)  # fmt: skip
async def test_a_kill_holds_for_what_it_names_and_for_nothing_else(
    make: Make, target: dict[str, str], caught: dict[str, Any], other: dict[str, Any] | None
) -> None:
    mesh = make()
    assert (await mesh.runtime.run(step(**caught))).ok
    await mesh.kill(**target, reason="it misbehaves", authority="ops")
    outcome = await mesh.runtime.run(step(**caught))
    assert (outcome.status, outcome.code) == (Status.DENIED, "compliance_profile.killed")
    assert "it misbehaves (by ops)" in outcome.reason
    if other is not None:
        assert (await mesh.runtime.run(step(**other))).ok
    await mesh.release(**target, reason="mended", authority="ops")
    assert (await mesh.runtime.run(step(**caught))).ok


async def test_a_kill_holds_within_one_step_across_processes(make: Make, path: Path) -> None:
    mesh = make()
    assert (await mesh.runtime.run(step())).ok
    other = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import asyncio, sys
            from meshflow import ReplayLedger
            from meshflow.mesh import Mesh
            async def main():
                async with ReplayLedger(sys.argv[1], key=None) as ledger, Mesh(ledger=ledger) as mesh:
                    await mesh.kill(run="run-1", reason="from elsewhere", authority="ops")
            asyncio.run(main())
        """), str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    outcome = await mesh.runtime.run(step())
    assert outcome.code == "compliance_profile.killed"
    assert "from elsewhere" in outcome.reason


async def test_a_kill_outlasts_a_restart(make: Make) -> None:
    await make().kill(agent="local", reason="test", authority="ops")
    assert (await make().runtime.run(step())).code == "compliance_profile.killed"


async def test_stops_are_evidence(make: Make) -> None:
    mesh = make()
    await mesh.kill(run="run-1", reason="test", authority="ops")
    await mesh.release(run="run-1", reason="mended", authority="ops")
    entries = await mesh.ledger.controls()
    assert [(entry["code"], entry["target"], entry["authority"]) for entry in entries] == [
        ("kill", {"run": "run-1"}, "ops"), ("release", {"run": "run-1"}, "ops"),
    ]  # fmt: skip
    assert (await mesh.ledger.verify_chain("meshflow.control"))["valid"]
    assert await mesh.stops() == ()


async def test_a_ledger_that_cannot_be_read_denies(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make()

    async def broken(after: int = -1) -> list[dict[str, Any]]:
        raise LedgerError("the disk is gone")

    monkeypatch.setattr(mesh.ledger, "controls", broken)
    assert (await mesh.runtime.run(step())).code == "compliance_profile.stage_error"


@pytest.mark.parametrize("wrong", [{}, {"run": ""}])
async def test_a_stop_of_nothing_is_refused(make: Make, wrong: dict[str, str]) -> None:
    with pytest.raises(LedgerError, match="name one or more"):
        await make().kill(**wrong, reason="x", authority="ops")


async def test_a_stop_without_a_reason_is_refused(make: Make) -> None:
    with pytest.raises(LedgerError, match="needs a reason and an authority"):
        await make().kill(run="r", reason=" ", authority="ops")


async def test_a_tenants_ledger_stops_that_tenant_alone(path: Path) -> None:
    async with ReplayLedger(path, tenant="acme", key=None) as ledger:
        await ledger.record_control("kill", {"agent": "bot"}, reason="x", authority="ops")
        with pytest.raises(LedgerError, match="tenant 'acme' alone"):
            await ledger.record_control("kill", {"tenant": "bolt"}, reason="x", authority="ops")
        (entry,) = await ledger.controls()
    assert entry["target"] == {"agent": "bot", "tenant": "acme"}


class TestQuarantine:
    async def test_an_agent_is_quarantined_after_denials_in_a_row(self, make: Make, heard: Any) -> None:
        policy = Policy.from_rego('package meshflow.policy\ndecision := {"allow": input.node.id != "bad"}')
        mesh = make(policy=policy, quarantine_after=3)
        heard.listen(mesh)
        for _ in range(2):
            await mesh.runtime.run(step(node_id="bad"))
        assert (await mesh.runtime.run(step())).ok
        for _ in range(3):
            await mesh.runtime.run(step(node_id="bad"))
        await mesh.drain()
        outcome = await mesh.runtime.run(step())
        assert outcome.code == "compliance_profile.quarantined"
        await mesh.drain()
        assert heard.kinds().count(MeshEvent.QUARANTINED) == 1
        await mesh.release(agent="local", tenant="default", reason="looked at", authority="ops")
        assert (await mesh.runtime.run(step())).ok

    async def test_other_agents_go_on(self, make: Make) -> None:
        policy = Policy.from_rego('package meshflow.policy\ndecision := {"allow": input.node.id != "bad"}')
        mesh = make(policy=policy, quarantine_after=1)
        await mesh.runtime.run(step(node_id="bad", agent_id="bot"))
        await mesh.drain()
        assert not (await mesh.runtime.run(step(agent_id="bot"))).ok
        assert (await mesh.runtime.run(step(agent_id="another"))).ok


def repeat(messages: Any, info: Any) -> ModelResponse:
    return ModelResponse([TextPart(f"heard: {messages[-1].parts[-1].content}")])


class TestMessages:
    @staticmethod
    def mesh(make: Make, **options: Any) -> Mesh:
        mesh = make(**options)
        for name in ("ann", "bob"):
            model = FunctionModel(
                lambda messages, info: ModelResponse([TextPart(f"heard: {messages[-1].parts[-1].content}")])
            )
            mesh.register(Agent(name, model=model))
        return mesh

    async def test_a_message_arrives_as_the_gates_left_it(self, make: Make) -> None:
        mesh = self.mesh(make)
        sent = await mesh.messages.send("ann", "bob", "card 4111 1111 1111 1111", run_id="run-1")
        assert sent.ok
        (message,) = mesh.messages.read("bob")
        assert (message.sender, message.content) == ("ann", "card <CREDIT_CARD>")
        assert mesh.messages.read("bob") == []
        (recorded,) = await mesh.ledger.get_run("run-1")
        assert (recorded["node_id"], recorded["action"]) == ("ann.message", "send")

    async def test_a_refused_message_does_not_arrive(self, make: Make) -> None:
        policy = Policy.from_rego('package meshflow.policy\ndecision := {"allow": input.action != "send"}')
        mesh = self.mesh(make, policy=policy)
        assert (await mesh.messages.send("ann", "bob", "hello")).status is Status.DENIED
        assert mesh.messages.read("bob") == []

    async def test_an_agent_answers_in_the_run_of_the_message(self, make: Make) -> None:
        mesh = self.mesh(make)
        await mesh.messages.send("ann", "bob", "hello", run_id="run-1")
        (result,) = await mesh.messages.answer("bob")
        assert (result.output, result.run_id) == ("heard: hello", "run-1")

    async def test_a_run_that_breaks_off_leaves_the_messages_behind_it(self, make: Make) -> None:
        mesh, asked = make(), []

        def answer(messages: Any, info: Any) -> ModelResponse:
            asked.append(messages[-1].parts[-1].content)
            return ModelResponse([TextPart("ok")])

        for name in ("ann", "bob"):
            mesh.register(Agent(name, model=FunctionModel(answer)))
        for text in ("one", "two", "three"):
            await mesh.messages.send("ann", "bob", text)
        with pytest.raises(TypeError):
            await mesh.messages.answer("bob", no_such_option=1)
        await mesh.messages.send("ann", "bob", "four")
        assert [result.ok for result in await mesh.messages.answer("bob")] == [True] * 3
        assert asked == ["two", "three", "four"]


async def test_live_and_past_runs_can_be_asked_for(make: Make) -> None:
    mesh = make()
    seen: list[Any] = []

    def answer(messages: Any, info: Any) -> ModelResponse:
        seen.extend(mesh.live())
        return ModelResponse([TextPart("hi")])

    mesh.register(Agent("bot", model=FunctionModel(answer)))
    result = await mesh.run_agent("bot", "hello", run_id="run-9")
    assert [(run.run_id, run.what) for run in seen] == [("run-9", "bot")]
    assert mesh.live() == ()
    assert [run["run_id"] for run in await mesh.past()] == [result.run_id]
