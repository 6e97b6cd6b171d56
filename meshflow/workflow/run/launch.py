"""Begin a run or go on with one: its first step takes the input in, its last one lets the output out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from meshflow.config.source import dotted, shown
from meshflow.errors import ConfigError, LedgerError
from meshflow.ids import new_id
from meshflow.record import Status
from meshflow.step import NodeInput
from meshflow.workflow.calls import Target, same
from meshflow.workflow.plain import NOTHING, NotPlainError, Plain, plain
from meshflow.workflow.plan import Plan
from meshflow.workflow.registry import Registry
from meshflow.workflow.result import NodeResult, NodeStatus, RunStatus, WorkflowResult
from meshflow.workflow.run.board import Cell, Halt, Trace
from meshflow.workflow.run.execution import Execution
from meshflow.workflow.run.memory import START, LedgerMemory, Memory, NoMemory, StepMemo, memory_of
from meshflow.workflow.run.resolve import definition_digest, resolve
from meshflow.workflow.run.schedule import ending, waiting
from meshflow.workflow.run.steps import Call, Done, Run, Stop
from meshflow.workflow.run.undo import Undo, compensate
from meshflow.workflow.spec import Node

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime

END = "@end"
# A run that paused or was cancelled may be gone on with, so what it did stands.
_UNDONE = (RunStatus.DENIED, RunStatus.FAILED, RunStatus.LIMIT_REACHED)
# The ledger does not answer, an approval holds no more, or another process goes on with the same run: what is done may
# stand, and is not for this one to undo.
_UNCLEAR = ("audit_ledger.", "approval.")
_SAME = Target(same, "function")
_FRAME = Node(idempotent=True)  # the first step and the last hand on what they are given


@dataclass(slots=True)
class Launch:
    """What a caller asks of a run, and what was found for it before anything ran."""

    plan: Plan
    input: Any = None
    run_id: str | None = None
    runtime: StepRuntime | None = None
    runtimes: Mapping[str, StepRuntime] = field(default_factory=dict)
    registry: Registry | None = None
    agent_id: str = "local"
    credential: str | None = field(default=None, repr=False)
    tenant: str | None = None
    memory: Memory | None = None
    cancel: asyncio.Event | None = None
    on_node: Callable[[NodeResult], None] | None = None
    resume: bool = False
    retry_failed: bool = False

    async def go(self) -> WorkflowResult:
        """Run the workflow and return how it ended; ConfigError for what is found wrong before it begins."""
        given = NOTHING if self.resume else checked_input(self.plan, self.input)
        async with self._governed() as runtime:
            run = Run(
                run_id=self.run_id or new_id("run"),
                registry=self.registry or Registry(),
                runtimes=_named(runtime, self.runtimes),
                memory=self.memory or NoMemory(),
                limits=self.plan.limits,
                agent_id=self.agent_id,
                credential=self.credential,
                tenant=self.tenant,
                retry_failed=self.retry_failed,
                on_node=self.on_node,
            )
            resolve(self.plan, run)
            return await _Launched(self, run, given, runtime).go()

    @asynccontextmanager
    async def _governed(self) -> AsyncIterator[StepRuntime]:
        """Give the runtime: the caller's, or one with every default that lasts as long as the run."""
        if self.runtime is not None:
            yield self.runtime
            return
        from meshflow.kernel.runtime import StepRuntime

        async with StepRuntime() as runtime:
            yield runtime


class _Launched:
    """One run on its way."""

    def __init__(self, launch: Launch, run: Run, given: Plain, runtime: StepRuntime) -> None:
        self._launch = launch
        self._runtime = runtime
        self._plan = launch.plan
        self._run = run
        self._given = given
        self._begun = perf_counter()
        self._ends = Cell(0)

    async def go(self) -> WorkflowResult:
        try:
            if self._launch.resume:
                await self._admit()
            done = await self._start()
        except Halt as halt:
            return self._result(RunStatus(halt.status.value), halt, self._not_begun(halt), halt.approvals)
        undos: list[Undo] = []
        execution = Execution(self._run, self._plan, done.value, done.trace, undos)
        await self._watched(execution)
        execution.close()
        return await self._end(execution, undos)

    def _not_begun(self, halt: Halt) -> Mapping[str, NodeResult]:
        """Return the nodes of a run that ended, or waits, before the first of them."""
        execution = Execution(self._run, self._plan, NOTHING, Trace(), [])
        if halt.status is not NodeStatus.PAUSED:
            self._run.stop = Stop(halt.status, halt.code, halt.reason)
        execution.close()
        return execution.results()

    async def _admit(self) -> None:
        """Ask the gates who goes on with the run: only what their tenant may see is gone on with."""
        run = self._run
        step = NodeInput(
            node_id=START, run_id=run.run_id, agent_id=run.agent_id, credential=run.credential, tenant=run.tenant
        )
        asked = await self._runtime.explain(step)
        if asked.status is Status.DENIED:  # what waits for a person is asked of the step itself
            raise Halt(NodeStatus.DENIED, asked.code, asked.reason)
        if self._launch.memory is None:
            run.memory = await memory_of(self._runtime, run.run_id, asked.tenant_id)

    async def _start(self) -> Done:
        """Take the input in as a step of its own: gates see it once, and its labels and its record begin there."""
        run, plan = self._run, self._plan
        step_id = start_id(plan, run.registry)
        if self._launch.resume:
            memo = await run.memory.recall(step_id)
            if memo is None:
                raise ConfigError(
                    f"run {run.run_id!r} did not begin with this definition of {shown(plan.name)} ({step_id}); "
                    "go on with the one that it began with",
                    where="resume",
                )
            self._remembered(run.memory)
            if memo.status != "completed":
                self._take_up(memo)
        call = Call(START, step_id, _SAME, self._given, Trace(), spec=_FRAME)
        done = await run.take(call, self._ends)
        if done.withheld:
            raise LedgerError(f"the input of run {run.run_id!r} {done.withheld}; pass a memory that holds it")
        return done

    def _take_up(self, memo: StepMemo) -> None:
        """Take the input from the record of a first step that has not completed; nobody gives it a second time."""
        if memo.given_doubt:
            raise LedgerError(f"the input of run {self._run.run_id!r} {memo.given_doubt}; begin another run with it")
        self._given = plain(memo.given)

    def _remembered(self, memory: Memory) -> None:
        """Take over what is known of the run as a whole, where it is read from the ledger."""
        run = self._run
        if not isinstance(memory, LedgerMemory):
            return
        run.undone, run.counted = memory.undone, True
        run.cost_micro_usd, run.tokens = memory.spent
        if memory.undone and not memory.partly_undone and self._launch.retry_failed:
            raise ConfigError(f"run {run.run_id!r} was undone, so nothing of it is tried again", where="resume")

    async def _watched(self, execution: Execution) -> None:
        """Run, until the time is up or someone asks to cancel."""
        run, limits = self._run, self._plan.limits
        loop = asyncio.get_running_loop()
        timer = watcher = None

        def stop(status: NodeStatus, code: str, reason: str) -> None:
            run.stop = run.stop or Stop(status, code, reason)
            execution.cancel()

        if limits.timeout_ms is not None:
            reason = f"the run did not end in {limits.timeout_ms} ms; see limits.timeout_ms"
            timer = loop.call_later(
                limits.timeout_ms / 1_000, stop, NodeStatus.LIMIT_REACHED, "workflow.timeout", reason
            )
        asked = self._launch.cancel
        if asked is not None:

            async def watch() -> None:
                await asked.wait()
                stop(NodeStatus.CANCELLED, "workflow.cancelled", "someone asked for the run to be cancelled")

            watcher = loop.create_task(watch())
        try:
            await execution.go()
        finally:
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _end(self, execution: Execution, undos: list[Undo]) -> WorkflowResult:
        cells = execution.board.cells
        stop, ended = self._run.stop, ending(cells.values())
        done = Done(NOTHING, Trace())
        halt: Halt | None = None
        if stop is not None:
            halt = Halt(stop.status, stop.code, stop.reason, node=stop.node)
        elif ended is not None:
            name = next(name for name, cell in cells.items() if cell is ended)
            halt = Halt(ended.status, ended.code, ended.reason, waiting(cells.values()), name)
        else:
            try:
                done = execution.output()
            except Halt as wrong:
                halt = wrong
        if halt is None:
            try:
                call = Call(END, END, _SAME, done.value, done.trace, spec=_FRAME)
                done = await self._run.take(call, self._ends)
            except Halt as refused:
                halt = refused
        status = RunStatus.COMPLETED if halt is None else RunStatus(halt.status.value)
        if halt is not None and undos and _is_to_be_undone(status, halt.code):
            undone = await compensate(self._run, undos)
            if undone.failed:
                reason = f"{halt.reason}; {undone.failed} of {len(undos)} could not be undone"
                halt = Halt(halt.status, halt.code, reason, tuple(undone.approvals), halt.node)
        return self._result(status, halt, execution.results(), waiting(cells.values()), done.value)

    def _result(
        self, status: RunStatus, halt: Halt | None, nodes: Mapping[str, NodeResult], approvals: tuple[str, ...],
        output: Plain = NOTHING,
    ) -> WorkflowResult:  # fmt: skip
        run = self._run
        return WorkflowResult(
            workflow=self._plan.name,
            run_id=run.run_id,
            status=status,
            output=output.value if status is RunStatus.COMPLETED else None,
            code=halt.code if halt is not None else "",
            reason=halt.reason if halt is not None else "",
            node=halt.node if halt is not None else "",
            nodes=nodes,
            approvals=tuple(dict.fromkeys((*approvals, *(halt.approvals if halt is not None else ())))),
            cost_micro_usd=run.cost_micro_usd,
            tokens=run.tokens,
            steps=run.steps,
            duration_ms=(perf_counter() - self._begun) * 1_000,
        )


def _is_to_be_undone(status: RunStatus, code: str) -> bool:
    return status in _UNDONE and (code == "approval.rejected" or not code.startswith(_UNCLEAR))


def start_id(plan: Plan, registry: Registry) -> str:
    """Return the id of a run's first step, which says by which definition it began.

    In the id and not in the metadata: those pass redaction, to which a digest may look like a number of somebody's.
    """
    return f"{START}.{definition_digest(plan, registry)[:32]}"


def _named(runtime: StepRuntime, others: Mapping[str, StepRuntime]) -> dict[str | None, StepRuntime]:
    return {None: runtime, **dict(others.items())}


def checked_input(plan: Plan, value: Any) -> Plain:
    """Return a run's input of its own; ConfigError for one that is not plain, or not what the workflow takes."""
    try:
        given = plain(value)
    except NotPlainError as error:
        raise ConfigError(f"the input is not plain data: {error}", where="input") from None
    if plan.schema is not None:
        problem = plan.schema.problem(given.value)
        if problem:
            raise ConfigError(problem, where="input", path=dotted((*plan.root, "input", "schema")))
    return given
