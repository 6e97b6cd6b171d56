"""Pause a step for a person, and judge the person's answer when the step is handed in again."""

from __future__ import annotations

import re

from meshflow.config.models import ApprovalsConfig
from meshflow.decision import Effect
from meshflow.digest import arguments_digest, new_salt
from meshflow.facts import Principal, TaintLabels
from meshflow.ids import new_id
from meshflow.kernel.gate import Passage
from meshflow.names import folded_name, names_of
from meshflow.record import ApprovalRequest, StageResult
from meshflow.step import Approval, StepState

_CODE = re.compile(r"[a-z][a-z0-9_.]{0,499}")


def ask_for_caller(passage: Passage, question: str) -> None:
    """Escalate because the caller itself wants a person to approve: ``NodeInput.ask``."""
    reason = question or "the caller asks for a person's approval"
    passage.note(StageResult("approval", "kernel", Effect.ESCALATE, "approval.asked", reason))
    passage.escalations.append(("approval.asked", reason))


def request_approval(passage: Passage, rules: ApprovalsConfig, *, holds_output: bool = False) -> ApprovalRequest:
    """Return what a person is asked: bound to the input as the gates left it, the pipeline and an expiry."""
    salt = new_salt()
    state = passage.state
    required, _ = rules.terms(state.step.tool, passage.context.tenant_id)
    return ApprovalRequest(
        approval_id=new_id("apr", 10),
        arguments_digest=arguments_digest(state.input, salt),
        salt=salt,
        expires_at_us=state.clock.now_us() + rules.expires_s * 1_000_000,
        codes=_questions(passage),
        holds_output=holds_output,
        required=required,
    )


def objection(approval: Approval, state: StepState) -> tuple[str, str] | None:
    """Return why an approval is none for whoever hands the step in, whatever its arguments, as code and reason.

    To be asked once tenant and principal are known, and before anything of the approval is used.
    """
    if foreign := _whose_step(approval, state):
        return foreign
    if not approval.approved:
        return "approval.rejected", f"{approval.approver} said no: {approval.reason or 'no reason given'}"
    if approval.used:
        return "approval.used", f"approval {approval.approval_id} has been used; a person approves one execution"
    return None


def shortfall(approval: Approval, state: StepState, rules: ApprovalsConfig) -> tuple[str, str] | None:
    """Return why an approval does not cover the step as the gates have left it; None if it does."""
    if state.clock.now_us() >= approval.expires_at_us:
        return "approval.expired", f"approval {approval.approval_id} has expired; ask again"
    if problem := _whose_approval(approval, state, rules):
        return problem
    if approval.fingerprint != state.fingerprint:
        return "approval.policy_changed", "plugins, settings or policy changed since the approval; ask again"
    given = [state.input]
    if approval.edited:
        given.append(approval.edited_input)  # as it was before the gates took out of it what they take out of any input
    if approval.arguments_digest not in [arguments_digest(one, approval.salt) for one in given]:
        return "approval.arguments_changed", "the arguments are not those that were approved; ask again"
    return None


def settle_escalations(passage: Passage, approval: Approval) -> None:
    """Take away the questions that an approval has answered; where others are left, all are asked again.

    What a gate has come to ask since, of edited arguments or under other labels, nobody has looked at.
    """
    asked = set(approval.codes)
    unasked = [code for code in _questions(passage) if code not in asked]
    if _worse(passage.state.facts.get("taint_propagation"), approval):
        unasked.append("an input of worse labels")
    if unasked:
        reason = f"{approval.approval_id} was given before anybody was asked about {', '.join(unasked)}"
        passage.note(StageResult("approval", "kernel", Effect.ESCALATE, "approval.incomplete", reason))
        passage.escalations.insert(0, ("approval.incomplete", reason))
    else:
        passage.escalations.clear()


def _worse(labels: TaintLabels | None, approval: Approval) -> bool:
    seen = approval.labels
    if labels is None or seen is None or approval.holds_output:  # then no input is used any more
        return False
    return labels.origin > seen.origin or labels.confidentiality > seen.confidentiality


def _questions(passage: Passage) -> tuple[str, ...]:
    """Return what a person is asked, by code; with those of each reason, since a policy has one code for all rules."""
    found = dict.fromkeys(code for code, _ in passage.escalations)
    for one in passage.results:
        if one.enforced and one.effect is Effect.ESCALATE and one.code in found:
            reasons = one.evidence.get("codes")  # whatever a plugin has put there
            for reason in reasons if isinstance(reasons, list | tuple) else ():
                if isinstance(reason, str) and _CODE.fullmatch(reason):  # others may hold secrets
                    found[f"{one.code}:{reason}"] = None
    return tuple(found)


def _whose_step(approval: Approval, state: StepState) -> tuple[str, str] | None:
    """Return why a step is not the one that waited, or not of those for whom it waited."""
    step, scope = state.step, state.facts.get("tenant_scoping")
    if scope is None or scope.tenant_id != approval.tenant_id:
        return "approval.other_tenant", f"approval {approval.approval_id} was given in another tenant"
    if not _same_principal(approval.principal, state.facts.get("identity_verification")):
        return "approval.other_principal", "the step is handed in again for another principal"
    given = (approval.run_id, approval.step_id, approval.node_id, approval.node_kind, approval.tool, approval.action)
    if given != (state.run_id, state.step_id, step.node_id, step.kind, step.tool, step.action):
        return "approval.other_step", f"approval {approval.approval_id} was given for another step"
    return None


def _same_principal(asked: Principal, principal: Principal | None) -> bool:
    return principal is not None and asked.identity() == principal.identity()


def _whose_approval(approval: Approval, state: StepState, rules: ApprovalsConfig) -> tuple[str, str] | None:
    """Return why those who approved may not, or are too few, by the rules in force now."""
    principal = approval.principal
    asked = names_of(principal.subject, principal.agent_id, principal.claims)
    people = {folded_name(name): name for name in (*approval.approvers, approval.approver)}
    if theirs := [name for folded, name in people.items() if folded in asked]:
        return "approval.self_approved", f"{theirs[0]} asked for the step and may not approve it"
    required, approvers = rules.terms(state.step.tool, approval.tenant_id)
    allowed = {folded_name(name) for name in approvers}
    if strangers := [name for folded, name in people.items() if allowed and folded not in allowed]:
        return "approval.not_an_approver", f"{strangers[0]} is none of those whom approvals.approvers names"
    if len(people) < required:
        return "approval.too_few", f"{len(people)} of {required} people have approved"
    return None
