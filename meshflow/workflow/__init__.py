"""Workflows: steps, conditions and data flow in YAML that is checked whole before anything runs."""

from meshflow.workflow.definition import WorkflowDefinition
from meshflow.workflow.registry import Registry
from meshflow.workflow.result import NodeResult, NodeStatus, RunStatus, WorkflowResult, WorkflowRunError
from meshflow.workflow.run.memory import LedgerMemory, Memory, StepMemo

__all__ = [
    "LedgerMemory", "Memory", "NodeResult", "NodeStatus", "Registry", "RunStatus", "StepMemo", "WorkflowDefinition",
    "WorkflowResult", "WorkflowRunError",
]  # fmt: skip
