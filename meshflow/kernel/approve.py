"""Pause a step for a person, and judge the person's answer when the step is handed in again."""

from __future__ import annotations

from typing import Any

from meshflow.kernel.digest import arguments_digest, new_salt
from meshflow.kernel.gate import Passage
from meshflow.record import ApprovalRequest
from meshflow.step import Approval, StepState


def request_approval(passage: Passage, expires_s: int, *, holds_output: bool = False) -> ApprovalRequest:
    """Return what a person is asked: bound to the input as the gates left it, the pipeline and an expiry."""
    salt = new_salt()
    state = passage.state
    return ApprovalRequest(
        approval_id=f"apr-{new_salt()[:20]}",
        arguments_digest=arguments_digest(state.input, salt),
        salt=salt,
        expires_at_us=state.clock.now_us() + expires_s * 1_000_000,
        codes=tuple(code for code, _ in passage.escalations),
        holds_output=holds_output,
    )


def objection(approval: Approval, state: StepState) -> tuple[str, str] | None:
    """Return why an approval does not cover the step as it stands now, as code and reason; None if it does."""
    if not approval.approved:
        return "approval.rejected", f"{approval.approver} said no: {approval.reason or 'no reason given'}"
    if approval.used:
        return "approval.used", f"approval {approval.approval_id} has been used; a person approves one execution"
    if approval.run_id != state.run_id or approval.step_id != state.step_id:
        return "approval.other_step", f"approval {approval.approval_id} was given for another step"
    if state.clock.now_us() > approval.expires_at_us:
        return "approval.expired", f"approval {approval.approval_id} has expired; ask again"
    if approval.approver in (approval.principal.subject, approval.principal.agent_id):
        return "approval.self_approved", f"{approval.approver} asked for the step and may not approve it"
    if approval.fingerprint != state.fingerprint:
        return "approval.policy_changed", "plugins, settings or policy changed since the approval; ask again"
    if approval.arguments_digest != arguments_digest(state.input, approval.salt):
        return "approval.arguments_changed", "the arguments are not those that were approved; ask again"
    return None


def same_principal(approval: Approval, principal: Any) -> bool:
    """Return whether a resumed step runs for the principal that asked."""
    asked = approval.principal
    return principal is not None and (asked.subject, asked.agent_id) == (principal.subject, principal.agent_id)
