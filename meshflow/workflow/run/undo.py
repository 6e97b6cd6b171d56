"""Undo what a run that did not complete has done: the newest first, each as a governed step of its own."""

from __future__ import annotations

from collections.abc import Sequence

from meshflow.workflow.expressions import EvaluationError
from meshflow.workflow.plain import plain
from meshflow.workflow.result import NodeStatus
from meshflow.workflow.run.board import Cell, Halt
from meshflow.workflow.run.execution import Undo
from meshflow.workflow.run.memory import UNDO
from meshflow.workflow.run.steps import Call
from meshflow.workflow.spec import Node
from meshflow.workflow.spec.nodes import CompensationNode


async def compensate(undos: Sequence[Undo]) -> int:
    """Undo all, in reverse order, and return how many could not be; one that fails stops no other."""
    failed = 0
    for undo in reversed(undos):
        failed += not await _undone(undo)
    return failed


async def _undone(undo: Undo) -> bool:
    cell = undo.execution.board.cells[undo.node.name]
    spec = undo.node.spec.compensate
    if spec is None:
        return True
    own = Cell(0)
    try:
        await undo.execution.run.take(_call(undo, spec), own, undo.node.spec.runtime or undo.execution.runtime)
    except Halt as halt:
        status, why = halt.status, f"{halt.code}: {halt.reason}"
        cell.approvals += halt.approvals
    except EvaluationError as error:
        status, why = NodeStatus.FAILED, f"workflow.{error.cause}: {error}"
    else:
        status, why = NodeStatus.COMPLETED, ""
    finally:
        cell.cost_micro_usd += own.cost_micro_usd
        cell.tokens += own.tokens
    if why:
        cell.reason = f"it could not be undone: {why}"
    if why or cell.undone is None:
        cell.undone = status
    return not why


def _call(undo: Undo, spec: CompensationNode) -> Call:
    board = undo.execution.board
    given, trace = undo.done.value, undo.done.trace
    template = undo.node.undo
    if template is not None:
        given, trace = template.render(board.data(template.names)), board.trace(template.names)
    elif undo.done.withheld:
        raise EvaluationError("output_unavailable", f"the output of {undo.node.name} {undo.done.withheld}")
    settings = Node(
        action=spec.action, risk=spec.risk, timeout_ms=spec.timeout_ms, agent_id=undo.node.spec.agent_id,
        labels=undo.node.spec.labels,
    )  # fmt: skip
    return Call(
        f"{undo.execution.prefix}{undo.node.name}{UNDO}", f"{undo.step_id}{UNDO}",
        undo.execution.run.undo_target(undo.node), plain(given.value), trace, spec=settings, undoing=True,
    )  # fmt: skip
