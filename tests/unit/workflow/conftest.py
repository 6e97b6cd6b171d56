"""One governed runtime for all tests of the folder, on the default plugins, and short ways to make workflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger, StepRuntime, WorkflowDefinition, WorkflowResult
from meshflow.workflow import Registry

_NUMBERS = count()


class World:
    """A runtime, its ledger, and a registry with a few functions; ``calls`` is what they were called with."""

    def __init__(self, runtime: StepRuntime, ledger: ReplayLedger) -> None:
        self.runtime = runtime
        self.ledger = ledger
        self.registry = Registry()
        self.calls: list[tuple[str, Any]] = []
        self.run_id = f"run-{next(_NUMBERS)}"
        for name in ("one", "two", "three", "four"):
            self.function(name)

    def function(self, name: str, does: Callable[[Any], Any] | None = None, *, tool: bool = False) -> None:
        """Register an async function that notes its call and returns what ``does`` says, or its own name."""

        async def call(given: Any = None, **arguments: Any) -> Any:
            given = arguments or given
            self.calls.append((name, given))
            answer = does(given) if does is not None else name
            return await answer if hasattr(answer, "__await__") else answer

        (self.registry.tool if tool else self.registry.function)(call, name=name)

    async def run(self, source: str | WorkflowDefinition, value: Any = None, **options: Any) -> WorkflowResult:
        """Run YAML text, or a definition, in the run of this world."""
        wf = WorkflowDefinition.from_yaml(source) if isinstance(source, str) else source
        given: dict[str, Any] = {"runtime": self.runtime, "registry": self.registry, "run_id": self.run_id}
        return await wf.run(value, **(given | options))

    async def resume(self, source: str | WorkflowDefinition, **options: Any) -> WorkflowResult:
        """Go on with that run."""
        wf = WorkflowDefinition.from_yaml(source) if isinstance(source, str) else source
        given: dict[str, Any] = {"runtime": self.runtime, "registry": self.registry}
        return await wf.resume(self.run_id, **(given | options))

    async def steps(self) -> list[str]:
        """Return the recorded steps of the run: id, without the digest in that of the first, and verdict."""
        steps = await self.ledger.get_run(self.run_id)
        return [f"{step['step_id'].partition('.')[0]} {step['verdict']}" for step in steps]

    @property
    def called(self) -> list[str]:
        """The names of what was called, in order."""
        return [name for name, _ in self.calls]


@pytest.fixture(scope="session")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StepRuntime, ReplayLedger]]:
    """Give a runtime on the defaults. It serves every event loop, so one is enough."""
    folder: Path = tmp_path_factory.mktemp("workflow")
    runtime = StepRuntime(
        config={"ledger": {"path": str(folder / "ledger.db")}, "plugins": {"executor": {"circuit": {"failures": 0}}}}
    )
    yield runtime, runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
    runtime.close()


@pytest.fixture
def world(governed: tuple[StepRuntime, ReplayLedger]) -> World:
    """Give a world of the test's own: a run and a registry."""
    return World(*governed)
