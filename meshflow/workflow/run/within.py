"""A step whose handler takes governed steps of its own: one of those may be denied, or wait for a person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

from meshflow.workflow.plain import NotPlainError, plain
from meshflow.workflow.result import NodeStatus
from meshflow.workflow.run.board import Cell, Halt
from meshflow.workflow.run.steps import Call, Done, Run

# The key of output that stands in the place of an answer which a person has yet to allow.
_PAUSED = "meshflow:paused"


class Inside(Protocol):
    """What runs inside a step. Each is used for one attempt at it."""

    def handler(self) -> Callable[[Any], Awaitable[Any]]:
        """Return the step's handler; what it returns is ``paused_by`` or ``answer``."""
        ...

    @property
    def paused(self) -> str:
        """The code with which it has just come to wait for a person; empty where it has not."""
        ...

    async def undecided(self) -> bool:
        """Say whether nobody has decided yet what it came to wait for, so that there is no use in going on."""
        ...

    def ended(self) -> Halt | None:
        """Return how what is inside ended, where that decides how the step did."""
        ...

    def settle(self, run: Run, cell: Cell) -> None:
        """Count what the steps inside have cost."""
        ...


def paused_by(approvals: tuple[str, ...], checkpoint: Any) -> dict[str, Any]:
    """Return what a step puts out that waits for others, so that the run can go on from there."""
    return {_PAUSED: {"checkpoint": checkpoint, "approvals": list(approvals)}}


def answer(value: Any) -> Any:
    """Return what a step puts out, once it is sure that nobody takes it for what ``paused_by`` made."""
    try:
        taken = _pause_in(plain(value).value)
    except NotPlainError:
        return value  # which ends the step in its own way
    if taken is not None:
        raise ValueError(f"an answer may not be a mapping of {_PAUSED} alone")
    return value


async def take_within(run: Run, call: Call, cell: Cell, make: Callable[[Any], Inside]) -> Done:
    """Take a step with others inside; what waits for a person goes on from its checkpoint when the run is resumed."""
    checkpoint: Any = None
    for number in count(1):
        inside = make(checkpoint)
        step_id = call.step_id if number == 1 else f"{call.step_id}~{number}"
        target = replace(call.target, handler=inside.handler())
        try:
            done = await run.take(replace(call, step_id=step_id, target=target, inside=inside.ended), cell)
        except Halt as halt:
            raise inside.ended() or halt from None
        finally:
            inside.settle(run, cell)
        pause = _pause_in(done.value.value)
        if done.withheld:
            memo = await run.memory.recall(step_id)
            if memo is not None and _pause_in(memo.value) is not None:
                message = f"the checkpoint of {call.node_id} {done.withheld}"
                raise Halt(NodeStatus.FAILED, "workflow.output_unavailable", message)
        if pause is None:
            return done
        checkpoint = pause["checkpoint"]
        # What it has just come to wait for nobody has decided; what was recalled may have been decided meanwhile.
        if inside.paused or await make(checkpoint).undecided():
            code, reason = inside.paused or "approval.pending", f"{call.node_id} waits for a person"
            raise Halt(NodeStatus.PAUSED, code, reason, tuple(pause["approvals"]))
    raise AssertionError("counting does not end")


def _pause_in(value: Any) -> Mapping[str, Any] | None:
    found = value.get(_PAUSED) if isinstance(value, Mapping) and len(value) == 1 else None
    return found if isinstance(found, Mapping) else None
