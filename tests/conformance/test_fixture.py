"""The fixture that makes runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from meshflow import NodeInput, StepRuntime
from meshflow.plugin import Decision, NoSettings, Plugin, StepContext, hookimpl


class NoXyzzy(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, context: StepContext) -> Decision | None:
        return Decision.deny("input_guardrails.word", "no") if context.input == "xyzzy" else None


async def test_runtime_of_the_fixture_runs_steps(step_runtime: Callable[..., StepRuntime], tmp_path: Path) -> None:
    runtime = step_runtime({"ledger": {"path": "here.db"}}, plugins={"no-xyzzy": NoXyzzy(NoSettings())})
    outcome = await runtime.run(NodeInput(node_id="n", input="xyzzy", handler=lambda value: value))
    assert outcome.code == "input_guardrails.word"
    assert (tmp_path / "here.db").exists()


def test_runtime_of_the_fixture_serves_blocking_tests(step_runtime: Callable[..., StepRuntime]) -> None:
    outcome = step_runtime().run_sync(NodeInput(node_id="n", input="x", handler=lambda value: value))
    assert outcome.unwrap() == "x"
