"""Which plugin serves each stage when nothing is configured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFAULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "identity_verification": ("identity",),
        "tenant_scoping": ("tenancy",),
        "rate_limiting": ("limits",),
        "budget_check": ("limits",),
        "policy_evaluation": ("rego",),
        "compliance_profile": ("compliance", "rego"),
        "input_guardrails": ("guardrails",),
        "sensitive_data_scan": ("presidio",),
        "risk_classification": ("risk",),
        "taint_propagation": ("taint",),
        "tool_permission": ("tools", "rego"),
        "execution": ("executor",),
        "output_guardrails": ("guardrails", "presidio", "rego"),
        "audit_ledger": ("ledger",),
        "sla_record": ("sla",),
    }
)
POLICY_FOLLOWERS = frozenset({"compliance_profile", "tool_permission", "output_guardrails"})
"""Stages where the policy plugin joins in by default while it serves stage 5: one bundle, several entry points."""

FIRST_PARTY = frozenset(name for names in DEFAULTS.values() for name in names)
BESIDE = frozenset({"candidate"})
"""First-party plugins that serve no stage unless they are named."""

FIRST_PARTY_DISTRIBUTIONS = frozenset(
    {"meshflow"}
    | {
        f"meshflow-{name}"
        for name in (
            "identity",
            "tenancy",
            "limits",
            "rego",
            "compliance",
            "guardrails",
            "presidio",
            "flow",
            "executor",
            "ledger",
            "sla",
        )
    }
)
