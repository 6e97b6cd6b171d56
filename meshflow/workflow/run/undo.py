"""Undo what a run that did not complete has done: the newest first, each as a governed step of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshflow.workflow.plain import Plain, plain
from meshflow.workflow.plan import PlannedNode
from meshflow.workflow.result import NodeStatus
from meshflow.workflow.run.board import Cell, Halt, Trace
from meshflow.workflow.run.memory import UNDO
from meshflow.workflow.run.steps import Call, Run
from meshflow.workflow.run.under import take_under
from meshflow.workflow.spec import Node
from meshflow.workflow.spec.nodes import CompensationNode


@dataclass(frozen=True, slots=True)
class Undo:
    """What undoes a node, or an item of a map, that has completed; made when it did.

    ``cell`` is told how it went, ``problem`` says why there is nothing that it could be given.
    """

    cell: Cell
    node_id: str
    step_id: str
    node: PlannedNode
    given: Plain
    trace: Trace
    runtime: str | None = None
    problem: Halt | None = None


@dataclass(slots=True)
class Undone:
    """What came of undoing: how many could not be undone, and the approvals that some wait for."""

    failed: int = 0
    approvals: list[str] = field(default_factory=list)


async def compensate(run: Run, undos: Sequence[Undo]) -> Undone:
    """Undo all, in reverse order; one that fails stops no other."""
    ended = Undone()
    for undo in reversed(undos):
        halt = await _undo(run, undo)
        status = NodeStatus.COMPLETED if halt is None else halt.status
        if halt is not None:
            ended.failed += 1
            ended.approvals += halt.approvals
            undo.cell.approvals += halt.approvals
            undo.cell.reason = f"it could not be undone: {halt}"
        if halt is not None or undo.cell.undone is None:
            undo.cell.undone = status
    return ended


async def _undo(run: Run, undo: Undo) -> Halt | None:
    spec = undo.node.spec.compensate
    if spec is None:
        return None
    if undo.problem is not None:
        return undo.problem
    own = Cell(0)
    try:
        await take_under(run, _call(run, undo, spec), own, undo.runtime)
    except Halt as halt:
        return halt
    finally:
        undo.cell.cost_micro_usd += own.cost_micro_usd
        undo.cell.tokens += own.tokens
    return None


def _call(run: Run, undo: Undo, spec: CompensationNode) -> Call:
    settings = Node(
        action=spec.action, risk=spec.risk, idempotent=spec.idempotent, timeout_ms=spec.timeout_ms, retry=spec.retry,
        agent_id=undo.node.spec.agent_id, labels=undo.node.spec.labels,
    )  # fmt: skip
    return Call(
        f"{undo.node_id}{UNDO}", f"{undo.step_id}{UNDO}", run.undo_target(undo.node), plain(undo.given.value),
        undo.trace, spec=settings, undoing=True,
    )  # fmt: skip
