"""How each kind of node runs: as one step, as a workflow of its own, or once for each item of a list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from meshflow.errors import ConfigError
from meshflow.workflow.calls import Target, same
from meshflow.workflow.expressions import EvaluationError
from meshflow.workflow.plain import NotPlainError, Plain, plain
from meshflow.workflow.plan import Plan, PlannedNode
from meshflow.workflow.result import NodeResult, NodeStatus
from meshflow.workflow.run.agents import AgentCall, is_agent
from meshflow.workflow.run.board import Cell, Halt, Trace, joined
from meshflow.workflow.run.schedule import WITHHELD, Schedule, ending, waiting, worst
from meshflow.workflow.run.steps import Call, Done, Run
from meshflow.workflow.run.under import take_under
from meshflow.workflow.run.undo import Undo
from meshflow.workflow.run.within import take_within
from meshflow.workflow.spec.nodes import AgentNode, MapNode, SubgraphNode

MAX_DEPTH = 16
_AGENT = Target(same, "agent")


class Execution(Schedule):
    """A schedule whose nodes are steps of a governed run. ``undos`` gathers what can be undone, in order."""

    def __init__(
        self, run: Run, plan: Plan, given: Plain, trace: Trace, undos: list[Undo], prefix: str = "",
        runtime: str | None = None, depth: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(run, plan, given, trace, prefix)
        self.runtime = runtime
        self._undos = undos
        self._depth = depth

    def executed(self, node: PlannedNode, cell: Cell, done: Done) -> None:
        """Note a node that can be undone."""
        self._note_undo(node, cell, done, self._id(node, cell), node.spec.runtime or self.runtime)

    def _note_undo(
        self, node: PlannedNode, cell: Cell, done: Done, step_id: str, runtime: str | None,
        extra: Mapping[str, Plain] | None = None, item: Trace | None = None,
    ) -> None:  # fmt: skip
        """Note what undoes a node, with what it is to be given: later rounds of a loop put out other things."""
        if node.spec.compensate is None:
            return
        given, trace, problem = done.value, done.trace, None
        try:
            if node.undo is not None:
                names = node.undo.names
                given = node.undo.render(self.board.data(names, {**(extra or {}), "output": done.value}))
                trace = self.board.trace(names, done.trace.join((item,) if item is not None else ()))
            if done.withheld and (node.undo is None or "output" in node.undo.names):
                raise EvaluationError("output_unavailable", f"the output of {node.name} {done.withheld}")
        except EvaluationError as error:
            problem = Halt(NodeStatus.FAILED, f"workflow.{error.cause}", f"input: {error}")
        self._undos.append(Undo(cell, f"{self.prefix}{node.name}", step_id, node, given, trace, runtime, problem))

    async def run_node(self, node: PlannedNode, cell: Cell) -> Done:
        """Run a node and return its output; Halt where it ends without one."""
        spec = node.spec
        if not isinstance(spec, MapNode | SubgraphNode):
            given, trace = self._input(node)
            return await self._take(node, cell, given, trace, self._id(node, cell))
        work = self._map(node, spec, cell) if isinstance(spec, MapNode) else self._subgraph(node, spec, cell)
        if spec.timeout_ms is None:
            return await work
        try:
            async with asyncio.timeout(spec.timeout_ms / 1_000):
                return await work
        except TimeoutError:
            message = f"{node.name} did not end in {spec.timeout_ms} ms"
            raise Halt(NodeStatus.FAILED, "workflow.node_timeout", message) from None

    def _id(self, node: PlannedNode, cell: Cell) -> str:
        return f"{self.prefix}{node.name}" + (f"#{cell.runs}" if cell.runs > 1 else "")

    def _input(
        self, node: PlannedNode, extra: Mapping[str, Plain] | None = None, item: Trace | None = None
    ) -> tuple[Plain, Trace]:
        """Return what a node is given, of its own (a handler may change it), and what that is made of."""
        try:
            if node.input is not None:
                given = node.input.render(self.board.data(node.input.names, extra))
                trace = self.board.trace(node.input.names, item)
            elif extra is not None:
                given, trace = extra["item"], item or Trace()
            else:
                given, trace = self.board.default_input(node.name)
            if node.kind == "map" or not node.texts:
                return plain(given.value), trace
            texts = {key: text.render(self.board.data(text.names, extra)).value for key, text in node.texts.items()}
            trace = trace.join(self.board.trace(text.names, item) for text in node.texts.values())
            if node.kind == "human":
                return joined({"ask": str(texts["ask"]).strip(), "input": given.value}), trace
            if node.kind == "model":
                return joined({"instructions": str(texts["instructions"]).strip(), "prompt": given.value}), trace
            method = getattr(node.spec, "method", "GET")
            body = given.value if node.input is not None else None
            return joined({"method": method, **texts, "body": body}), trace
        except EvaluationError as error:
            raise Halt(NodeStatus.FAILED, f"workflow.{error.cause}", f"input: {error}") from None

    async def _take(self, node: PlannedNode, cell: Cell, given: Plain, trace: Trace, step_id: str) -> Done:
        return await self._step(node, node, cell, given, trace, step_id, node.spec.runtime or self.runtime)

    async def _step(
        self, node: PlannedNode, each: PlannedNode, cell: Cell, given: Plain, trace: Trace, step_id: str,
        runtime: str | None,
    ) -> Done:  # fmt: skip
        """Take a step of a node, or of what a map does for an item."""
        name = f"{self.prefix}{node.name}"
        if isinstance(each.spec, AgentNode):
            agent = self.run.registry.find("agent", each.spec.agent)
            if is_agent(agent):
                governs = self.run.runtimes[runtime]
                call = Call(name, step_id, _AGENT, given, trace, spec=each.spec)
                return await take_within(self.run, call, cell, lambda kept: AgentCall(agent, governs, kept))
        ask = str(given.value["ask"]) if each.kind == "human" else None
        call = Call(name, step_id, self.run.target(each), given, trace, spec=each.spec, ask=ask)
        return await take_under(self.run, call, cell, runtime)

    async def _subgraph(self, node: PlannedNode, spec: SubgraphNode, cell: Cell) -> Done:
        given, trace = self._input(node)
        runtime = spec.runtime or self.runtime
        return await self._inner(node, spec, cell, given, trace, self._id(node, cell), runtime)

    async def _inner(
        self, node: PlannedNode, spec: SubgraphNode, cell: Cell, given: Plain, trace: Trace, step_id: str,
        runtime: str | None,
    ) -> Done:  # fmt: skip
        plan = node.inner if node.inner is not None else self.run.registry.find("workflow", spec.ref or "").plan
        if self._depth >= MAX_DEPTH:
            raise Halt(NodeStatus.FAILED, "workflow.too_deep", f"workflows run at most {MAX_DEPTH} deep in each other")
        problem = plan.schema.problem(given.value) if plan.schema is not None else ""
        if problem:
            raise Halt(NodeStatus.FAILED, "workflow.invalid_input", problem)
        inner = Execution(self.run, plan, given, trace, self._undos, f"{step_id}/", runtime, self._depth + 1)
        try:
            await inner.go()
        finally:
            inner.close()
            cells = inner.board.cells.values()
            cell.inner = inner.results
            cell.cost_micro_usd += sum(one.cost_micro_usd for one in cells)
            cell.tokens += sum(one.tokens for one in cells)
            cell.attempts += 1
        ended = ending(cells)
        if ended is not None:
            raise Halt(ended.status, ended.code, ended.reason, waiting(cells))
        return inner.output()

    async def _map(self, node: PlannedNode, spec: MapNode, cell: Cell) -> Done:
        each = node.each
        if each is None:
            raise ConfigError(f"{node.name} has nothing to do")
        items, source = self._items(node, spec)
        done: list[Done | None] = [None] * len(items)
        ended: dict[int, tuple[Halt, Cell]] = {}
        whole: dict[int, Cell] = {}
        failed = False
        places = iter(range(len(items)))
        step_id = self._id(node, cell)

        async def work() -> None:
            nonlocal failed
            for place in places:
                if failed or self.run.stop is not None:
                    return
                own = Cell(0)
                try:
                    done[place] = await self._item(
                        node, each, cell, own, items[place], place, source, f"{step_id}[{place}]"
                    )
                except Halt as halt:
                    ended[place] = halt, own
                    failed = failed or halt.status is not NodeStatus.PAUSED  # others go on while one waits
                else:
                    if isinstance(each.spec, SubgraphNode):
                        whole[place] = own

        try:
            await _gathered(work, min(spec.concurrency, len(items)))
        finally:
            cell.inner = lambda: _item_results(each, ended, whole)
        if ended:
            halts = [halt for halt, _ in ended.values()]
            first = worst(halts)
            approvals = tuple(one for halt in halts for one in halt.approvals)
            raise Halt(first.status, first.code, f"{first.reason} ({len(halts)} of {len(items)} items)", approvals)
        stop = self.run.stop
        if stop is not None and None in done:
            raise Halt(NodeStatus.CANCELLED, "workflow.run_ended", f"the run ended first: {stop.code}")
        completed = [one for one in done if one is not None]
        withheld = next((f"in item {place} {one.withheld}" for place, one in enumerate(completed) if one.withheld), "")
        try:
            output = plain([one.value.value for one in completed])
        except NotPlainError as error:
            raise Halt(NodeStatus.FAILED, "workflow.output_not_plain", str(error)) from None
        return Done(output, source.join(one.trace for one in completed), withheld)

    def _items(self, node: PlannedNode, spec: MapNode) -> tuple[list[Any], Trace]:
        over = node.texts["over"]
        try:
            items = over.render(self.board.data(over.names)).value
        except EvaluationError as error:
            raise Halt(NodeStatus.FAILED, f"workflow.{error.cause}", f"over: {error}") from None
        if not isinstance(items, list):
            message = f"over is a {type(items).__name__}, not a list"
            raise Halt(NodeStatus.FAILED, "workflow.not_a_list", message)
        if len(items) > spec.max_items:
            message = f"over has {len(items):,} items, and max_items is {spec.max_items:,}; none was run"
            raise Halt(NodeStatus.LIMIT_REACHED, "workflow.max_items", message)
        return items, self.board.trace(over.names)

    async def _item(
        self, node: PlannedNode, each: PlannedNode, cell: Cell, own: Cell, item: Any, place: int, source: Trace,
        step_id: str,
    ) -> Done:  # fmt: skip
        extra = {"item": plain(item), "index": Plain(place, 1)}
        given, trace = self._input(each, extra, source)
        runtime = each.spec.runtime or node.spec.runtime or self.runtime
        try:
            if isinstance(each.spec, SubgraphNode):
                done = await self._inner(each, each.spec, own, given, trace, step_id, runtime)
            else:
                done = await self._step(node, each, own, given, trace, step_id, runtime)
        except Halt as halt:
            if halt.executed:
                self._note_undo(each, cell, WITHHELD, step_id, runtime, extra, source)
            raise
        else:
            self._note_undo(each, cell, done, step_id, runtime, extra, source)
            return done
        finally:
            cell.step_ids += own.step_ids
            cell.attempts += own.attempts
            cell.cost_micro_usd += own.cost_micro_usd
            cell.tokens += own.tokens


def _item_results(
    each: PlannedNode, ended: Mapping[int, tuple[Halt, Cell]], whole: Mapping[int, Cell]
) -> dict[str, NodeResult]:
    """Return how the items ended that did not complete, and those that did and in which something was undone."""
    done = Halt(NodeStatus.COMPLETED, "", "")
    found = {place: _item_result(each, place, *one) for place, one in ended.items()}
    for place, cell in whole.items():
        result = _item_result(each, place, done, cell)
        if _was_undone(result):
            found[place] = result
    return {found[place].name: found[place] for place in sorted(found)}


def _item_result(each: PlannedNode, place: int, halt: Halt, cell: Cell) -> NodeResult:
    return NodeResult(
        name=f"[{place}]", kind=each.kind, status=halt.status, code=halt.code, reason=halt.reason,
        cost_micro_usd=cell.cost_micro_usd, tokens=cell.tokens, runs=1, attempts=cell.attempts,
        step_ids=tuple(cell.step_ids), approvals=halt.approvals, inner=cell.inner(),
    )  # fmt: skip


def _was_undone(result: NodeResult) -> bool:
    return result.undone is not None or any(_was_undone(one) for one in result.inner.values())


async def _gathered(work: Callable[[], Awaitable[None]], count: int) -> None:
    """Run ``count`` workers to their end; one that raises cancels the others, and all are waited for."""
    tasks = [asyncio.ensure_future(work()) for _ in range(count)]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
