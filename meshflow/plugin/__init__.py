"""All that a plugin author imports."""

from meshflow.clock import Clock
from meshflow.decision import UNSET, Decision, Effect, Obligation
from meshflow.errors import ConfigError, PluginError
from meshflow.facts import (
    BudgetReservation,
    ComplianceProfile,
    Confidentiality,
    Finding,
    Findings,
    Origin,
    Principal,
    RateLease,
    RiskTier,
    TaintLabels,
    TenantScope,
)
from meshflow.plugin.base import Host, NoSettings, Plugin, Settings
from meshflow.plugin.hookspecs import hookimpl
from meshflow.plugin.protocols import (
    Auditor,
    BudgetChecker,
    ComplianceChecker,
    IdentityVerifier,
    InputGuard,
    OutputGuard,
    PolicyEvaluator,
    RateLimiter,
    RiskClassifier,
    SensitiveDataScanner,
    SlaRecorder,
    StepExecutor,
    TaintPropagator,
    TenantScoper,
    ToolAuthorizer,
)
from meshflow.plugin.wiring import Demand, Served, Wiring
from meshflow.record import RuntimeOutcome, StageResult, Status, StepRecord, Verdict
from meshflow.stages import STAGES, Stage
from meshflow.step import (
    Approval,
    Execution,
    Metered,
    NodeInput,
    Purpose,
    StepContext,
    StreamState,
    context_for,
    current_step,
    entered,
    to_micro_usd,
)

__all__ = [
    "STAGES", "UNSET", "Approval", "Auditor", "BudgetChecker", "BudgetReservation", "Clock", "ComplianceChecker",
    "ComplianceProfile", "Confidentiality", "ConfigError", "Decision", "Demand", "Effect", "Execution", "Finding",
    "Findings", "Host", "IdentityVerifier", "InputGuard", "Metered", "NoSettings", "NodeInput", "Obligation",
    "Origin", "OutputGuard", "Plugin", "PluginError", "PolicyEvaluator", "Principal", "Purpose", "RateLease",
    "RateLimiter", "RiskClassifier", "RiskTier", "RuntimeOutcome", "SensitiveDataScanner", "Served", "Settings",
    "SlaRecorder", "Stage", "StageResult", "Status", "StepContext", "StepExecutor", "StepRecord", "StreamState",
    "TaintLabels", "TaintPropagator", "TenantScope", "TenantScoper", "ToolAuthorizer", "Verdict", "Wiring",
    "context_for", "current_step", "entered", "hookimpl", "to_micro_usd",
]  # fmt: skip
