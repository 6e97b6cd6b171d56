"""The decision document: what a policy sees of a step, as ``input``. Version 1.

Always there (null where nothing is known)::

    version     1
    stage       the stage that asks, such as "policy_evaluation"
    time_us     microseconds since the Unix epoch, UTC; the only clock a policy has
    principal   {subject, agent_id, issuer, verified, roles[], tenant} or null
    tenant      the tenant's id or null
    run         {run_id}
    step        {step_id, attempt}
    node        {id, kind}
    action      the step's action or null
    tool        the tool's name or null
    arguments   a tool call's arguments, as the gates so far have left them; null for other steps
    input       any other step's input; null for a tool call
    estimate    {micro_usd, tokens}; micro_usd is null where the step names no cost
    declared    {risk, idempotent}: what the caller says of the step
    metadata    the step's metadata
    approval    {id, approver, approved} on a step that waited for a person, or null

From stage 11 on::

    risk         "read_only", "internal", "external_io", "irreversible" or null
    labels       {origin, confidentiality}, lower-case names, or null
    findings     [{entity, path, action}]; never the text that was found
    obligations  [{name, parameters}] laid on the step so far

At stage 13 also::

    output  the step's output, or of a stream the text not yet released
    stream  {released_chars, final}, or null for an output that is whole
"""

from __future__ import annotations

from typing import Any

from meshflow.facts import Findings, Principal, RiskTier, TaintLabels
from meshflow.policy.engine import OUTPUT, TOOLS, EntryPoint
from meshflow.step import NodeInput, StepContext, to_micro_usd

DOCUMENT_VERSION = 1


def step_document(context: StepContext, entry: EntryPoint, output: Any = None) -> dict[str, Any]:
    """Return the document of a step for an entry point. ValueError for an estimate that is no amount of money."""
    step, approval = context.step, context.approval
    is_tool = step.tool is not None
    document: dict[str, Any] = {
        "version": DOCUMENT_VERSION,
        "stage": entry.stage,
        "time_us": context.clock.now_us(),
        "principal": _principal(context.principal),
        "tenant": context.tenant_id,
        "run": {"run_id": context.run_id},
        "step": {"step_id": context.step_id, "attempt": context.attempt},
        "node": {"id": step.node_id, "kind": step.kind},
        "action": step.action,
        "tool": step.tool,
        "arguments": context.input if is_tool else None,
        "input": None if is_tool else context.input,
        "estimate": _estimate(step),
        "declared": {"risk": _tier(step.risk), "idempotent": step.idempotent},
        "metadata": step.metadata,
        "approval": None
        if approval is None
        else {"id": approval.approval_id, "approver": approval.approver, "approved": approval.approved},
    }
    if entry is TOOLS or entry is OUTPUT:
        document["risk"] = _tier(context.risk)
        document["labels"] = _labels(context.labels)
        document["findings"] = _findings(context.findings)
        document["obligations"] = [{"name": duty.name, "parameters": duty.parameters} for duty in context.obligations]
    if entry is OUTPUT:
        stream = context.stream
        document["output"] = output
        document["stream"] = (
            None if stream is None else {"released_chars": stream.released_chars, "final": stream.final}
        )
    return document


def _principal(principal: Principal | None) -> dict[str, Any] | None:
    if principal is None:
        return None
    return {
        "subject": principal.subject,
        "agent_id": principal.agent_id,
        "issuer": principal.issuer,
        "verified": principal.verified,
        "roles": principal.roles,
        "tenant": principal.tenant,
    }


def _estimate(step: NodeInput) -> dict[str, Any]:
    usd = step.estimate_usd
    return {"micro_usd": None if usd is None else to_micro_usd(usd), "tokens": step.estimate_tokens}


def _tier(risk: RiskTier | str | None) -> str | None:
    return risk.label if isinstance(risk, RiskTier) else risk.lower() if isinstance(risk, str) else None


def _labels(labels: TaintLabels | None) -> dict[str, str] | None:
    if labels is None:
        return None
    return {"origin": labels.origin.name.lower(), "confidentiality": labels.confidentiality.name.lower()}


def _findings(findings: Findings | None) -> list[dict[str, str]]:
    items = () if findings is None else findings.items
    return [{"entity": item.entity, "path": item.path, "action": item.action} for item in items]
