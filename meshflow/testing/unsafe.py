"""A plugin that lets every step pass, to try one stage or one handler alone."""

from __future__ import annotations

import warnings
from typing import Any

from meshflow.facts import BudgetReservation, Principal, RateLease, RiskTier, TaintLabels, TenantScope
from meshflow.plugin import Decision, Host, NoSettings, Plugin, StepContext, hookimpl


class UnsafeWarning(UserWarning):
    """Something that weakens enforcement is in use."""


class UnsafeAllowAll(Plugin[NoSettings]):
    """Allows at every gate and checks nothing. Never for production: each instance warns once, when it is made.

    It does not execute, record or redact: those stages keep their own providers.
    """

    settings_type = NoSettings

    def __init__(self, settings: NoSettings | None = None, host: Host | None = None) -> None:
        super().__init__(settings if settings is not None else NoSettings(), host)
        warnings.warn("UnsafeAllowAll lets every step pass; use it in tests only", UnsafeWarning, stacklevel=2)

    @hookimpl
    def verify_identity(self, context: StepContext) -> Decision:
        """Take the step's word for who asks."""
        return Decision.allow(fact=Principal("unsafe-allow-all", context.step.agent_id))

    @hookimpl
    def scope_tenant(self, context: StepContext) -> Decision:
        """Take the step's word for its tenant."""
        return Decision.allow(fact=TenantScope(context.step.tenant or "default"))

    @hookimpl
    def limit_rate(self) -> Decision:
        """Count nothing."""
        return Decision.allow(fact=RateLease())

    @hookimpl
    def check_budget(self) -> Decision:
        """Reserve nothing."""
        return Decision.allow(fact=BudgetReservation("none"))

    @hookimpl
    def evaluate_policy(self) -> Decision:
        """Allow."""
        return Decision.allow()

    @hookimpl
    def apply_compliance_profile(self) -> Decision:
        """Allow."""
        return Decision.allow()

    @hookimpl
    def guard_input(self) -> Decision:
        """Allow."""
        return Decision.allow()

    @hookimpl
    def classify_risk(self, context: StepContext) -> Decision:
        """Take the step's word for its risk; a step that says nothing has side effects within."""
        risk = context.step.risk
        if risk is None:
            return Decision.allow(fact=RiskTier.INTERNAL)
        try:
            return Decision.allow(fact=risk if isinstance(risk, RiskTier) else RiskTier.parse(risk))
        except ValueError:
            return Decision.allow(fact=RiskTier.IRREVERSIBLE)

    @hookimpl
    def propagate_taint(self, context: StepContext) -> Decision:
        """Take the step's word for its labels."""
        return Decision.allow(fact=context.step.labels or TaintLabels())

    @hookimpl
    def authorize_tool(self) -> Decision:
        """Allow."""
        return Decision.allow()

    @hookimpl
    def guard_output(self, output: Any) -> Decision:
        """Allow."""
        return Decision.allow()
