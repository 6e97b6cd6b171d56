"""Run the nodes of one workflow as their turn comes: a task for each that runs, none for those that wait."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from functools import partial

from meshflow.workflow.expressions import EvaluationError
from meshflow.workflow.plain import NOTHING, Plain
from meshflow.workflow.plan import Plan, PlannedNode
from meshflow.workflow.result import NodeResult, NodeStatus
from meshflow.workflow.run.board import Board, Cell, Halt, Trace, joined
from meshflow.workflow.run.steps import Done, Run, Stop

_STOPPING = (NodeStatus.DENIED, NodeStatus.FAILED, NodeStatus.LIMIT_REACHED)
_WORST_FIRST = (
    NodeStatus.DENIED, NodeStatus.FAILED, NodeStatus.LIMIT_REACHED, NodeStatus.CANCELLED, NodeStatus.PAUSED,
)  # fmt: skip
WITHHELD = Done(NOTHING, Trace(), "was withheld")


class Schedule(ABC):
    """One workflow in one run: the whole, or a subgraph within it, whose steps go by ``prefix``."""

    def __init__(self, run: Run, plan: Plan, given: Plain, trace: Trace, prefix: str = "") -> None:
        self.run = run
        self.plan = plan
        self.board = Board(plan, run.run_id, given, trace)
        self.prefix = prefix
        self._ready: deque[str] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._idle: asyncio.Future[None] | None = None
        self._closing = False

    @abstractmethod
    async def run_node(self, node: PlannedNode, cell: Cell) -> Done:
        """Run a node and return its output; Halt where it ends without one."""

    @abstractmethod
    def executed(self, node: PlannedNode, cell: Cell, done: Done) -> None:
        """Take note of a node that has had its effect, before anything follows from it."""

    async def go(self) -> None:
        """Run until nothing is ready and nothing runs. What became of it stands on the board, and in ``run.stop``.

        A cancelled caller gets its cancellation after every step in flight is recorded.
        """
        self._idle = asyncio.get_running_loop().create_future()
        self._ready.extend(self.board.begin())
        self._pump()
        try:
            await self._idle
        except BaseException:
            await self._wind_up()
            raise

    def cancel(self) -> None:
        """Begin nothing more, and cancel every node that runs."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()

    async def _wind_up(self) -> None:
        """Cancel what runs and wait for it, however often the caller is cancelled meanwhile."""
        self.cancel()
        while self._tasks:
            try:
                await asyncio.wait(tuple(self._tasks.values()))
            except asyncio.CancelledError:
                self.cancel()

    def close(self) -> None:
        """Mark what will not run any more, now that the run has ended, or this workflow in it."""
        stop = self.run.stop
        if stop is None and not self._closing:
            return
        reason = f"the run ended first: {stop.code}" if stop is not None else "the workflow around it ended first"
        for cell in self.board.cells.values():
            if cell.status in (NodeStatus.PENDING, NodeStatus.RUNNING):
                cell.status, cell.code, cell.reason = NodeStatus.CANCELLED, "workflow.run_ended", reason

    def output(self) -> Done:
        """Return what the workflow gives, once it has run; Halt where an expression has no value."""
        try:
            return self._output()
        except EvaluationError as error:
            raise Halt(NodeStatus.FAILED, f"workflow.{error.cause}", f"output: {error}") from None

    def _output(self) -> Done:
        board, template, ends = self.board, self.plan.output, self.plan.shape.ends
        if template is not None:
            return Done(template.render(board.data(template.names)), board.trace(template.names))
        names = {name: f"nodes.{name}.output" for name in ends if board.cells[name].status is NodeStatus.COMPLETED}
        data, trace = board.data(names.values()), board.trace(names.values())
        if len(ends) == 1:
            return Done(data[names[ends[0]]] if names else NOTHING, trace)
        return Done(joined({name: data[key].value for name, key in names.items()}), trace)

    def results(self) -> dict[str, NodeResult]:
        """Return how each node stands, in order."""
        return {name: self.result(name) for name in self.plan.shape.order}

    def result(self, name: str) -> NodeResult:
        """Return how a node stands."""
        cell = self.board.cells[name]
        return NodeResult(
            name=name,
            kind=self.plan.nodes[name].kind,
            status=cell.status,
            code=cell.code,
            reason=cell.reason,
            output=cell.value.value if cell.status is NodeStatus.COMPLETED else None,
            cost_micro_usd=cell.cost_micro_usd,
            tokens=cell.tokens,
            runs=cell.runs,
            attempts=cell.attempts,
            step_ids=tuple(cell.step_ids),
            approvals=cell.approvals,
            undone=cell.undone,
            inner=cell.inner(),
        )

    def _pump(self) -> None:
        """Begin what is ready, as far as there is room; note when nothing is left to wait for."""
        run = self.run
        if run.stop is not None or self._closing:
            self._ready.clear()
        while self._ready and len(self._tasks) < run.limits.concurrency:
            name = self._ready.popleft()
            cell = self.board.cells[name]
            cell.status = NodeStatus.RUNNING
            cell.runs += 1
            task = asyncio.get_running_loop().create_task(self._node(name), name=f"workflow {name}")
            task.add_done_callback(partial(self._never_begun, name))
            self._tasks[name] = task
        if not self._tasks and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _never_begun(self, name: str, task: asyncio.Task[None]) -> None:
        """Let go of a node that was cancelled before its first line, so that nothing waits for it."""
        if self._tasks.get(name) is task:
            del self._tasks[name]
            cell = self.board.cells[name]
            cell.runs -= 1
            self._cancelled(cell)
            self._pump()

    def _cancelled(self, cell: Cell) -> None:
        stop = self.run.stop
        code, reason = (stop.code, stop.reason) if stop is not None else ("workflow.cancelled", "it was cancelled")
        if cell.attempts:
            reason += "; it was cut off, so it may have had its effect, which is not undone"
        cell.status, cell.code, cell.reason = NodeStatus.CANCELLED, code, reason

    async def _node(self, name: str) -> None:
        """Run a node and settle it. Whatever goes wrong here ends the run: it never waits for a node that is gone."""
        cell = self.board.cells[name]
        try:
            done = await self.run_node(self.plan.nodes[name], cell)
            self._ready.extend(self._complete(name, done))
        except Halt as halt:
            if halt.executed:
                self.executed(self.plan.nodes[name], cell, WITHHELD)
            self._halted(name, cell, halt)
        except asyncio.CancelledError:
            self._cancelled(cell)
        except BaseException as error:
            del self._tasks[name]
            self._fault(error)
            return
        del self._tasks[name]
        try:
            if self.run.on_node is not None:
                self.run.on_node(self.result(name))
            self._pump()
        except BaseException as error:
            self._fault(error)

    def _fault(self, error: BaseException) -> None:
        """End the run by raising: a fault of a memory, a listener or ours, after which nobody would be waited for."""
        if self._idle is not None and not self._idle.done():
            self._idle.set_exception(error)

    def _complete(self, name: str, done: Done) -> list[str]:
        cell = self.board.cells[name]
        cell.code = cell.reason = ""
        try:
            self.board.put(name, *done)
        finally:
            self.executed(self.plan.nodes[name], cell, done)  # whatever becomes of its state
        return self.board.follow(name)

    def _halted(self, name: str, cell: Cell, halt: Halt) -> None:
        blamed = self.board.cells[halt.node] if halt.node else cell
        blamed.status, blamed.code, blamed.reason = halt.status, halt.code, halt.reason
        blamed.approvals = halt.approvals
        if halt.status in _STOPPING and self.run.stop is None:
            self.run.stop = Stop(halt.status, halt.code, halt.reason, f"{self.prefix}{halt.node or name}")


def ending(cells: Iterable[Cell]) -> Cell | None:
    """Return the cell that decides how a workflow ended, the worst; None where each completed or was skipped."""
    ended = [cell for cell in cells if cell.status in _WORST_FIRST]
    return min(ended, key=lambda cell: _WORST_FIRST.index(cell.status), default=None)


def worst(halts: Iterable[Halt]) -> Halt:
    """Return the halt that decides how several ended."""
    return min(halts, key=lambda halt: _WORST_FIRST.index(halt.status))


def waiting(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Return the approvals that nodes wait for."""
    return tuple(one for cell in cells if cell.status is NodeStatus.PAUSED for one in cell.approvals)
