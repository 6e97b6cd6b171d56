"""WorkflowDefinition: a workflow that has been checked whole, read from YAML and written as YAML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.config.document import read_yaml
from meshflow.config.load import read_text
from meshflow.config.problems import raise_problems
from meshflow.config.source import Source
from meshflow.errors import ConfigError
from meshflow.workflow.draw import draw_mermaid
from meshflow.workflow.plain import NotPlainError, plain
from meshflow.workflow.plan import Plan
from meshflow.workflow.reading import Reader
from meshflow.workflow.run.launch import Launch
from meshflow.workflow.writing import to_yaml

if TYPE_CHECKING:
    import asyncio

    from meshflow.kernel.runtime import StepRuntime
    from meshflow.workflow.registry import Registry
    from meshflow.workflow.result import NodeResult, WorkflowResult
    from meshflow.workflow.run.memory import Memory

_NAME = "workflow"


class WorkflowDefinition:
    """A workflow: nodes, edges, conditions and data flow, checked before anything runs.

    Two are equal if they say the same, whatever their files look like. A definition does not change, holds no runtime
    and no handlers, and may be run any number of times, also at once.
    """

    __slots__ = ("plan",)

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @classmethod
    def from_yaml(cls, source: str | Path, *, allow_imports: bool = False) -> WorkflowDefinition:
        """Read a file, or YAML text (a str with a line break in it).

        ConfigError lists what is wrong, one a line, with file, line and column. ``allow_imports`` permits nodes to name
        a Python function by its import path, which gives whoever writes the file the rights of this process.
        """
        if isinstance(source, str) and "\n" in source:
            return cls._of(*read_yaml(source, _NAME, None, columns=True), allow_imports)
        name = os.fspath(source)
        return cls._of(*read_yaml(read_text(name), name, None, columns=True), allow_imports)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, allow_imports: bool = False) -> WorkflowDefinition:
        """Take a definition made in Python: what a file would hold, as plain data. Errors have paths and no lines."""
        try:
            copied = plain(mapping).value
        except NotPlainError as error:
            raise ConfigError(str(error), where=_NAME) from None
        return cls._of(copied, Source(_NAME), allow_imports)

    @classmethod
    def _of(cls, value: Any, source: Source, allow_imports: bool) -> WorkflowDefinition:
        if not isinstance(value, Mapping):
            raise ConfigError("should be a mapping with nodes and edges", where=source.where(()))
        reader = Reader(source, allow_imports)
        plan = reader.workflow(value)
        raise_problems(reader.problems, source)
        if plan is None:
            raise ConfigError("the workflow cannot be read", where=source.name)
        return cls(plan)

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self.plan.name

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes, each after all that lead to it."""
        return self.plan.shape.order

    @property
    def digest(self) -> str:
        """SHA-256 over what the definition says; the same for every file that says the same."""
        return self.plan.digest

    def to_mapping(self) -> dict[str, Any]:
        """Return the definition as plain data of the caller's own."""
        copied: dict[str, Any] = plain(self.plan.mapping).value
        return copied

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return the definition as YAML, and write it to ``path`` if one is given.

        Everything that it says is there; comments, anchors, and the shorthand of a chain of edges are not.
        """
        text = to_yaml(self.plan.mapping)
        if path is not None:
            Path(path).write_text(text, "utf-8")
        return text

    def draw_mermaid(self) -> str:
        """Return the workflow as a Mermaid flowchart."""
        return draw_mermaid(self.plan)

    async def run(
        self, input: Any = None, *, runtime: StepRuntime | None = None, run_id: str | None = None,
        registry: Registry | None = None, runtimes: Mapping[str, StepRuntime] | None = None, agent_id: str = "local",
        credential: str | None = None, tenant: str | None = None, memory: Memory | None = None,
        cancel: asyncio.Event | None = None, on_node: Callable[[NodeResult], None] | None = None,
    ) -> WorkflowResult:  # fmt: skip
        """Run the workflow, every node as a governed step, and return how it ended; nothing is raised for a denial.

        Without ``runtime`` one with every default is made for the run. ``registry`` holds what nodes call by name,
        ``runtimes`` what they are governed by if they name another. ``cancel`` ends the run early once it is set;
        ``memory`` keeps each step's outcome beside the ledger; ``on_node`` is told of each node that ended.

        ConfigError for what is wrong before the first step: an input that does not match, a name that nothing goes by.
        """
        return await Launch(
            self.plan, input, run_id, runtime, runtimes or {}, registry, agent_id, credential, tenant, memory, cancel,
            on_node,
        ).go()  # fmt: skip

    async def resume(
        self, run_id: str, *, runtime: StepRuntime | None = None, registry: Registry | None = None,
        runtimes: Mapping[str, StepRuntime] | None = None, agent_id: str = "local", credential: str | None = None,
        tenant: str | None = None, memory: Memory | None = None, cancel: asyncio.Event | None = None,
        on_node: Callable[[NodeResult], None] | None = None, retry_failed: bool = False,
    ) -> WorkflowResult:  # fmt: skip
        """Go on with a run that paused or was cut off, without doing again what is finished.

        What was done is read from the runtime's ledger, or asked of ``memory``. A step that had begun and whose end is
        not on record is done again if it is idempotent or reads only; else it waits for a person. With
        ``retry_failed`` steps that failed or were denied are tried again as well.
        """
        return await Launch(
            self.plan, None, run_id, runtime, runtimes or {}, registry, agent_id, credential, tenant, memory, cancel,
            on_node, resume=True, retry_failed=retry_failed,
        ).go()  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkflowDefinition) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<WorkflowDefinition {self.name!r} of {len(self.nodes)} nodes>"
