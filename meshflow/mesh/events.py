"""What a mesh tells its handlers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from meshflow.record import StepRecord, Verdict

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class MeshEvent(StrEnum):
    """Kinds of events. A step has one of the first four, and those of the second group that say why it was refused."""

    STEP_COMPLETE = "step_complete"
    STEP_DENIED = "step_denied"
    STEP_FAILED = "step_failed"
    STEP_PAUSED = "step_paused"

    POLICY_VIOLATION = "policy_violation"
    """A policy, a profile or a permission refused the step (stages 5, 6 and 11)."""
    GUARDRAIL_TRIPPED = "guardrail_tripped"
    """A guardrail or the scan for sensitive data refused it (stages 7, 8 and 13)."""
    BUDGET_EXCEEDED = "budget_exceeded"
    RATE_LIMITED = "rate_limited"
    TAINT_VIOLATION = "taint_violation"
    """Labels refused it: stage 10, or a clearance at stage 11."""
    IDENTITY_REFUSED = "identity_refused"
    SLA_BREACHED = "sla_breached"

    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_DECIDED = "approval_decided"

    RUN_STARTED = "run_started"
    RUN_ENDED = "run_ended"
    MESSAGE_SENT = "message_sent"
    KILLED = "killed"
    PAUSED = "paused"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    RELOADED = "reloaded"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``record`` is the step's, redacted as the ledger has it; ``data`` is what the kind adds."""

    kind: MeshEvent
    at_us: int
    run_id: str | None = None
    step_id: str | None = None
    agent_id: str | None = None
    tenant_id: str | None = None
    code: str = ""
    record: StepRecord | None = field(default=None, repr=False)
    data: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


_OF_VERDICT = {
    Verdict.COMMIT: MeshEvent.STEP_COMPLETE,
    Verdict.REJECT: MeshEvent.STEP_DENIED,
    Verdict.ERROR: MeshEvent.STEP_FAILED,
    Verdict.ESCALATE: MeshEvent.STEP_PAUSED,
}
_OF_STAGE = {
    "identity_verification": MeshEvent.IDENTITY_REFUSED,
    "tenant_scoping": MeshEvent.IDENTITY_REFUSED,
    "rate_limiting": MeshEvent.RATE_LIMITED,
    "budget_check": MeshEvent.BUDGET_EXCEEDED,
    "policy_evaluation": MeshEvent.POLICY_VIOLATION,
    "compliance_profile": MeshEvent.POLICY_VIOLATION,
    "input_guardrails": MeshEvent.GUARDRAIL_TRIPPED,
    "sensitive_data_scan": MeshEvent.GUARDRAIL_TRIPPED,
    "output_guardrails": MeshEvent.GUARDRAIL_TRIPPED,
    "taint_propagation": MeshEvent.TAINT_VIOLATION,
    "tool_permission": MeshEvent.POLICY_VIOLATION,
}
_BY_LABELS = frozenset({"confidential_to_sink", "above_clearance", "untrusted_input"})


def events_of(record: StepRecord, agent_id: str) -> Iterator[Event]:
    """Yield the events of one recorded step: how it ended, then why it was refused or what it waits for."""
    kinds = [_OF_VERDICT[record.verdict]]
    if record.verdict is Verdict.REJECT and (why := _why(record.code)) is not None:
        kinds.append(why)
    data: dict[str, Any] = {}
    if record.approval_request is not None:
        kinds.append(MeshEvent.APPROVAL_REQUESTED)
        data["approval_id"] = record.approval_request.approval_id
    at_us = record.started_us + record.duration_ns // 1_000
    for kind in kinds:
        yield Event(kind, at_us, record.run_id, record.step_id, agent_id, record.tenant_id, record.code, record, data)


def _why(code: str) -> MeshEvent | None:
    stage, _, cause = code.partition(".")
    if stage == "tool_permission" and cause in _BY_LABELS:
        return MeshEvent.TAINT_VIOLATION
    return _OF_STAGE.get(stage)
