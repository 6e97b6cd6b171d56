"""Policies in Rego: bundles, the contract of engines, the decision document, and the answers to it."""

from meshflow.policy.answer import decision_from, parse_answer
from meshflow.policy.bundle import Bundle
from meshflow.policy.document import step_document
from meshflow.policy.engine import (
    ENTRY_POINTS,
    EntryPoint,
    PolicyAnswer,
    PolicyDuty,
    PolicyEngine,
    PolicyFailure,
    PolicyReason,
)
from meshflow.policy.policy import Policy
from meshflow.policy.shipped import shipped_bundle

__all__ = [
    "ENTRY_POINTS", "Bundle", "EntryPoint", "Policy", "PolicyAnswer", "PolicyDuty", "PolicyEngine", "PolicyFailure",
    "PolicyReason", "decision_from", "parse_answer", "shipped_bundle", "step_document",
]  # fmt: skip
