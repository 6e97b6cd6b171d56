"""What somebody tries who writes a file, hands in data, or knows the id of another's run."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from meshflow import ConfigError, LedgerError, StepRuntime, WorkflowDefinition
from meshflow.decision import Decision
from meshflow.facts import Principal, TenantScope
from meshflow.plugin import NoSettings, Plugin, StepContext, hookimpl
from meshflow.workflow import Memory, NodeResult, Registry, RunStatus, StepMemo

HUMAN = """\
nodes:
  draft: {kind: transform, input: "the secret of ${{ input }}"}
  ask: {kind: human, ask: "Go on?"}
  show: {kind: transform, input: "${{ nodes.draft.output }}"}
edges: [draft -> ask -> show]
"""


class Badge(Plugin[NoSettings]):
    """Takes the credential for the name of the tenant."""

    @hookimpl
    async def verify_identity(self, context: StepContext) -> Decision:
        return Decision.allow(fact=Principal(f"user of {context.step.credential}", "agent"))

    @hookimpl
    async def scope_tenant(self, context: StepContext) -> Decision:
        return Decision.allow(fact=TenantScope(str(context.step.credential)))


async def test_another_tenants_run_cannot_be_gone_on_with(tmp_path: Path) -> None:
    config = {
        "stages": {"identity_verification": "badge", "tenant_scoping": "badge"},
        "ledger": {"path": str(tmp_path / "ledger.db")},
    }
    wf = WorkflowDefinition.from_yaml(HUMAN)
    async with StepRuntime(config=config, plugins={"badge": Badge(NoSettings())}) as runtime:
        paused = await wf.run("acme", runtime=runtime, run_id="r", credential="acme")
        assert paused.status is RunStatus.PAUSED
        ledger: Any = runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
        await ledger.decide_approval(paused.approvals[0], approve=True, approver="grace")
        with pytest.raises(LedgerError, match="has no run 'r'"):
            await wf.resume("r", runtime=runtime, credential="globex")
        assert [step["tenant_id"] for step in await ledger.get_run("r")] == ["acme"] * 3
        result = await wf.resume("r", runtime=runtime, credential="acme")
        assert result.output == "the secret of acme"


async def test_a_run_id_that_is_taken_runs_nothing_again(world: Any) -> None:
    text = "nodes:\n  a: {kind: python, call: one}\n"
    assert (await world.run(text)).ok
    again = await world.run(text)
    assert not again.ok
    assert world.called == ["one"]
    assert (await world.resume(text)).output == "one"
    assert world.called == ["one"]


async def test_what_an_output_says_is_never_run(world: Any) -> None:
    evil = "${{ nodes.secret.output }} {{7*7}} ${HOME} $(id) __import__('os')"
    world.function("evil", lambda _: {"text": evil, "list": [evil]})
    text = """\
nodes:
  secret: {kind: transform, input: hunter2}
  evil: {kind: python, call: evil}
  each: {kind: map, over: "${{ nodes.evil.output.list }}", do: {kind: python, call: one, input: "<${{ item }}>"}}
  use: {kind: python, call: two, input: {"a": "${{ nodes.evil.output.text }}", "b": "x ${{ nodes.evil.output.text }}"}}
edges: [secret -> evil -> each -> use]
"""
    assert (await world.run(text)).ok
    assert world.calls[1:] == [("one", f"<{evil}>"), ("two", {"a": evil, "b": f"x {evil}"})]


async def test_a_huge_output_fails_its_node_and_not_the_process(world: Any) -> None:
    world.function("huge", lambda _: "x" * 20_000_000)
    result = await world.run("nodes:\n  a: {kind: python, call: huge}\n")
    assert not result.ok
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    world.function("deep", lambda _: deep)
    assert not (await world.run("nodes:\n  a: {kind: python, call: deep}\n", run_id=f"{world.run_id}-deep")).ok


async def test_a_listener_or_a_memory_that_fails_ends_the_run_and_does_not_hang_it(world: Any) -> None:
    text = "nodes:\n  a: {kind: python, call: one}\n  b: {kind: python, call: two}\nstart: [a, b]\n"

    def listen(_: NodeResult) -> None:
        raise RuntimeError("the listener is broken")

    with pytest.raises(RuntimeError, match="listener is broken"):
        await asyncio.wait_for(world.run(text, on_node=listen), 20)

    class Broken:
        async def recall(self, step_id: str) -> StepMemo | None:
            return None

        async def remember(self, memo: StepMemo) -> None:
            if memo.step_id == "a":
                raise OSError("the disk is full")

    broken: Memory = Broken()
    with pytest.raises(OSError, match="disk is full"):
        await asyncio.wait_for(world.run(text, memory=broken, run_id=f"{world.run_id}-2"), 20)
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("workflow ")]


async def test_a_run_leaves_nothing_behind(world: Any) -> None:
    class Big(dict[str, Any]):
        pass

    given = Big(text="x")
    seen = weakref.ref(given)
    wf = WorkflowDefinition.from_yaml("nodes:\n  a: {kind: python, call: one}\n")
    await world.run(wf, given)
    del given
    world.calls.clear()
    gc.collect()
    assert seen() is None


async def test_limits_of_an_inner_workflow_are_an_error_and_not_ignored(world: Any) -> None:
    inner = "nodes: {b: {kind: transform}}, limits: {cost_usd: 1.0}"
    with pytest.raises(ConfigError, match="limits: hold for a whole run"):
        WorkflowDefinition.from_yaml(f"nodes:\n  a: {{kind: subgraph, workflow: {{{inner}}}}}\n")
    world.registry.workflow("inner", WorkflowDefinition.from_yaml(f"{{{inner}}}\n"))
    with pytest.raises(ConfigError, match="has limits of its own"):
        await world.run("nodes:\n  a: {kind: subgraph, ref: inner}\n")


async def test_the_schema_of_an_inner_workflow_holds(world: Any) -> None:
    text = """\
nodes:
  a: {kind: subgraph, workflow: {input: {schema: {type: string}}, nodes: {b: {kind: transform}}}}
"""
    assert (await world.run(text, "x")).output == "x"
    result = await world.run(text, 1, run_id=f"{world.run_id}-2")
    assert (result.status, result.code) == (RunStatus.FAILED, "workflow.invalid_input")


async def test_secrets_of_a_run_are_not_in_its_repr() -> None:
    from meshflow.workflow.run.launch import Launch

    wf = WorkflowDefinition.from_yaml("nodes:\n  a: {kind: transform}\n")
    assert "hunter2" not in repr(Launch(wf.plan, credential="hunter2"))


async def test_a_fork_of_a_run_goes_on_from_where_it_was_forked(world: Any) -> None:
    text = "nodes:\n  a: {kind: python, call: one}\n  b: {kind: python, call: two}\nedges: [a -> b]\n"
    assert (await world.run(text)).ok
    forked = await world.ledger.fork(world.run_id, from_step=2)
    wf = WorkflowDefinition.from_yaml(text)
    result = await wf.resume(forked, runtime=world.runtime, registry=world.registry)
    assert (result.output, world.called) == ("two", ["one", "two", "two"])
    assert (await world.ledger.verify_chain(forked))["valid"]


async def test_two_processes_that_resume_at_once_do_not_both_run_a_step(world: Any) -> None:
    begun = asyncio.Event()

    async def slow(_: Any) -> str:
        begun.set()
        await asyncio.sleep(0.2)
        return "done"

    text = """\
nodes:
  book: {kind: python, call: book, compensate: {kind: python, call: unbook}}
  ask: {kind: human, ask: "On?"}
  slow: {kind: python, call: slow, input: 1}
edges: [book -> ask -> slow]
"""
    for name in ("book", "unbook"):
        world.function(name)
    world.function("slow", slow)
    paused = await world.run(text)
    await world.ledger.decide_approval(paused.approvals[0], approve=True, approver="grace")
    async with StepRuntime(config=world.runtime.config) as second:
        results = await asyncio.gather(world.resume(text), world.resume(text, runtime=second), return_exceptions=True)
    assert any(not isinstance(one, BaseException) and one.ok for one in results)
    assert world.called == ["book", "slow"], "the one that came second undid, or did again, what the first had done"


def test_a_registry_gives_each_name_once() -> None:
    registry = Registry()
    registry.function(len, name="size")
    registry.function(len, name="size")
    with pytest.raises(ConfigError, match="there is a function 'size' already"):
        registry.function(str, name="size")
    with pytest.raises(ConfigError, match="needs a name"):
        registry.agent("", object())
