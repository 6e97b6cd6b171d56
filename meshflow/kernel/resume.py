"""Find what a person has answered to a step that is handed in again."""

from __future__ import annotations

from meshflow.kernel.ask import describe
from meshflow.kernel.core import Core
from meshflow.record import STATUS_OF_VERDICT, RuntimeOutcome, StepRecord, Verdict
from meshflow.step import StepContext, StepState


async def unanswered(core: Core, state: StepState) -> RuntimeOutcome | None:
    """Leave the answer that a resumed step waited for in its state; return an outcome, not recorded, without one."""
    find = core.base.find_approval
    try:
        state.approval = await find(StepContext(state)) if find is not None else None
    except Exception as error:
        return _unrecorded(state, Verdict.ERROR, "approval.unreadable", describe("the audit provider", error))
    if state.approval is None:
        return _unrecorded(state, Verdict.ESCALATE, "approval.pending", "nobody has decided yet")
    state.attempt = state.approval.attempt + 1
    return None


def _unrecorded(state: StepState, verdict: Verdict, code: str, reason: str) -> RuntimeOutcome:
    step = state.step
    record = StepRecord(
        run_id=state.run_id, node_id=step.node_id, step_id=state.step_id, attempt=state.attempt, node_kind=step.kind,
        verdict=verdict, code=code, reason=reason,
    )  # fmt: skip
    return RuntimeOutcome(STATUS_OF_VERDICT[verdict], None, record, code, reason, recorded=False)
