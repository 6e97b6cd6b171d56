"""One protocol a stage, since pluggy erases types: a plugin states in its own file which ones it keeps.

Protocols ask for the full argument list, where pluggy would accept fewer.
"""

from __future__ import annotations

from typing import Any, Protocol

from meshflow.decision import Decision
from meshflow.record import StepRecord
from meshflow.step import Execution, StepContext


class IdentityVerifier(Protocol):
    """Stage 1."""

    async def verify_identity(self, context: StepContext) -> Decision | None: ...


class TenantScoper(Protocol):
    """Stage 2."""

    async def scope_tenant(self, context: StepContext) -> Decision | None: ...


class RateLimiter(Protocol):
    """Stage 3."""

    async def limit_rate(self, context: StepContext) -> Decision | None: ...


class BudgetChecker(Protocol):
    """Stage 4."""

    async def check_budget(self, context: StepContext) -> Decision | None: ...


class PolicyEvaluator(Protocol):
    """Stage 5."""

    async def evaluate_policy(self, context: StepContext) -> Decision | None: ...


class ComplianceChecker(Protocol):
    """Stage 6."""

    async def apply_compliance_profile(self, context: StepContext) -> Decision | None: ...


class InputGuard(Protocol):
    """Stage 7."""

    async def guard_input(self, context: StepContext) -> Decision | None: ...


class SensitiveDataScanner(Protocol):
    """Stage 8."""

    async def scan_sensitive_data(self, context: StepContext) -> Decision | None: ...


class RiskClassifier(Protocol):
    """Stage 9."""

    async def classify_risk(self, context: StepContext) -> Decision | None: ...


class TaintPropagator(Protocol):
    """Stage 10."""

    async def propagate_taint(self, context: StepContext) -> Decision | None: ...


class ToolAuthorizer(Protocol):
    """Stage 11."""

    async def authorize_tool(self, context: StepContext) -> Decision | None: ...


class StepExecutor(Protocol):
    """Stage 12."""

    async def execute_step(self, context: StepContext) -> Execution | Decision | None: ...


class OutputGuard(Protocol):
    """Stage 13."""

    async def guard_output(self, context: StepContext, output: Any) -> Decision | None: ...


class Auditor(Protocol):
    """Stage 14, with the intent that must precede side effects."""

    async def record_audit(self, context: StepContext, record: StepRecord) -> None: ...

    async def record_intent(self, context: StepContext) -> None: ...


class SlaRecorder(Protocol):
    """Stage 15."""

    async def record_sla(self, context: StepContext, record: StepRecord) -> None: ...
