"""Governance middleware for AI agents: every step passes fifteen pluggable stages and leaves verifiable evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshflow.agent import Agent, AgentResult, TokenPrice, tool
    from meshflow.decision import Decision, Effect, Obligation
    from meshflow.errors import ConfigError, LedgerError, MeshflowError, PluginError, StepDeniedError
    from meshflow.graph.builder import StateGraph
    from meshflow.graph.markers import END, START, Command, Overwrite, Send, node
    from meshflow.graph.policies import CachePolicy, RetryPolicy
    from meshflow.graph.reducers import add, first, last
    from meshflow.graph.task import interrupt
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.ledger.diff import RunDiff
    from meshflow.ledger.replay import ReplayLedger
    from meshflow.mesh import Mesh, MeshEvent
    from meshflow.policy.policy import Policy
    from meshflow.record import RuntimeOutcome, Status, StepRecord, Verdict
    from meshflow.step import Metered, NodeInput, current_step
    from meshflow.workflow.definition import WorkflowDefinition
    from meshflow.workflow.result import WorkflowResult

__version__ = "2.0.0"

_HOME = {
    "Agent": "meshflow.agent",
    "AgentResult": "meshflow.agent",
    "TokenPrice": "meshflow.agent",
    "tool": "meshflow.agent",
    "Decision": "meshflow.decision",
    "Effect": "meshflow.decision",
    "Obligation": "meshflow.decision",
    "ConfigError": "meshflow.errors",
    "LedgerError": "meshflow.errors",
    "MeshflowError": "meshflow.errors",
    "PluginError": "meshflow.errors",
    "StepDeniedError": "meshflow.errors",
    "StateGraph": "meshflow.graph.builder",
    "Command": "meshflow.graph.markers",
    "END": "meshflow.graph.markers",
    "Overwrite": "meshflow.graph.markers",
    "START": "meshflow.graph.markers",
    "Send": "meshflow.graph.markers",
    "node": "meshflow.graph.markers",
    "CachePolicy": "meshflow.graph.policies",
    "RetryPolicy": "meshflow.graph.policies",
    "add": "meshflow.graph.reducers",
    "first": "meshflow.graph.reducers",
    "last": "meshflow.graph.reducers",
    "interrupt": "meshflow.graph.task",
    "StepRuntime": "meshflow.kernel.runtime",
    "ReplayLedger": "meshflow.ledger.replay",
    "RunDiff": "meshflow.ledger.diff",
    "Mesh": "meshflow.mesh",
    "MeshEvent": "meshflow.mesh",
    "Policy": "meshflow.policy.policy",
    "RuntimeOutcome": "meshflow.record",
    "Status": "meshflow.record",
    "StepRecord": "meshflow.record",
    "Verdict": "meshflow.record",
    "Metered": "meshflow.step",
    "NodeInput": "meshflow.step",
    "current_step": "meshflow.step",
    "WorkflowDefinition": "meshflow.workflow.definition",
    "WorkflowResult": "meshflow.workflow.result",
}

__all__ = [
    "END",
    "START",
    "Agent",
    "AgentResult",
    "CachePolicy",
    "Command",
    "ConfigError",
    "Decision",
    "Effect",
    "LedgerError",
    "Mesh",
    "MeshEvent",
    "MeshflowError",
    "Metered",
    "NodeInput",
    "Obligation",
    "Overwrite",
    "PluginError",
    "Policy",
    "ReplayLedger",
    "RetryPolicy",
    "RunDiff",
    "RuntimeOutcome",
    "Send",
    "StateGraph",
    "Status",
    "StepDeniedError",
    "StepRecord",
    "StepRuntime",
    "TokenPrice",
    "Verdict",
    "WorkflowDefinition",
    "WorkflowResult",
    "add",
    "current_step",
    "first",
    "interrupt",
    "last",
    "node",
    "tool",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    from importlib import import_module

    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'meshflow' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
