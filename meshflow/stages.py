"""The fifteen stages, their hooks, and how the answers of several providers combine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Combine(StrEnum):
    """How the answers of a stage's providers become one."""

    FIRST_APPLICABLE = "first-applicable"
    DENY_OVERRIDES = "deny-overrides"
    EXACTLY_ONE = "exactly-one"
    ALL_ALWAYS = "all-always"


class Kind(StrEnum):
    """What part a stage plays: a gate decides, execution runs, output decides on the result, a recorder writes."""

    GATE = "gate"
    EXECUTION = "execution"
    OUTPUT = "output"
    RECORDER = "recorder"


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the fifteen stages.

    ``protected`` stages change hands only by an explicit ``use:`` and cannot be disabled without ``unsafe: true``.
    ``shadowable`` stages take ``mode: shadow``; the others take at most ``also_shadow``, and ``never_shadow`` not that.
    """

    number: int
    name: str
    hook: str
    arguments: tuple[str, ...]
    kind: Kind
    combine: Combine
    silence_denies: bool = False
    protected: bool = False
    shadowable: bool = True
    never_shadow: bool = False
    tenant_may_extend: bool = True


_CONTEXT = ("context",)
_RECORD = ("context", "record")
_FIRST, _DENY = Combine.FIRST_APPLICABLE, Combine.DENY_OVERRIDES

IDENTITY = Stage(
    1, "identity_verification", "verify_identity", _CONTEXT, Kind.GATE, _FIRST,
    silence_denies=True, protected=True, shadowable=False, tenant_may_extend=False,
)  # fmt: skip
TENANT = Stage(
    2, "tenant_scoping", "scope_tenant", _CONTEXT, Kind.GATE, _FIRST,
    silence_denies=True, protected=True, shadowable=False, tenant_may_extend=False,
)  # fmt: skip
RATE = Stage(3, "rate_limiting", "limit_rate", _CONTEXT, Kind.GATE, _FIRST, silence_denies=True)
BUDGET = Stage(4, "budget_check", "check_budget", _CONTEXT, Kind.GATE, _FIRST, silence_denies=True)
POLICY = Stage(
    5, "policy_evaluation", "evaluate_policy", _CONTEXT, Kind.GATE, _DENY, silence_denies=True, protected=True
)
COMPLIANCE = Stage(6, "compliance_profile", "apply_compliance_profile", _CONTEXT, Kind.GATE, _DENY)
INPUT_GUARDRAILS = Stage(7, "input_guardrails", "guard_input", _CONTEXT, Kind.GATE, _DENY)
SENSITIVE_DATA = Stage(8, "sensitive_data_scan", "scan_sensitive_data", _CONTEXT, Kind.GATE, _DENY)
RISK = Stage(
    9, "risk_classification", "classify_risk", _CONTEXT, Kind.GATE, _FIRST, silence_denies=True, shadowable=False
)
TAINT = Stage(
    10, "taint_propagation", "propagate_taint", _CONTEXT, Kind.GATE, _FIRST, silence_denies=True, shadowable=False
)
TOOL_PERMISSION = Stage(
    11, "tool_permission", "authorize_tool", _CONTEXT, Kind.GATE, _DENY, silence_denies=True, protected=True
)
EXECUTION = Stage(
    12, "execution", "execute_step", _CONTEXT, Kind.EXECUTION, Combine.EXACTLY_ONE,
    protected=True, shadowable=False, never_shadow=True, tenant_may_extend=False,
)  # fmt: skip
OUTPUT_GUARDRAILS = Stage(13, "output_guardrails", "guard_output", ("context", "output"), Kind.OUTPUT, _DENY)
AUDIT = Stage(
    14, "audit_ledger", "record_audit", _RECORD, Kind.RECORDER, Combine.ALL_ALWAYS,
    protected=True, shadowable=False, never_shadow=True, tenant_may_extend=False,
)  # fmt: skip
SLA = Stage(15, "sla_record", "record_sla", _RECORD, Kind.RECORDER, Combine.ALL_ALWAYS)

STAGES: tuple[Stage, ...] = (
    IDENTITY, TENANT, RATE, BUDGET, POLICY, COMPLIANCE, INPUT_GUARDRAILS, SENSITIVE_DATA,
    RISK, TAINT, TOOL_PERMISSION, EXECUTION, OUTPUT_GUARDRAILS, AUDIT, SLA,
)  # fmt: skip
GATES: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage.kind is Kind.GATE)
STAGE_BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}
STAGE_BY_HOOK: dict[str, Stage] = {stage.hook: stage for stage in STAGES}
LIFECYCLE_HOOKS: tuple[str, ...] = (
    "startup", "shutdown", "wrap_stage", "record_intent", "settle_step", "find_approval",
)  # fmt: skip
