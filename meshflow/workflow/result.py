"""What a run gives: its status, its output, and how each node ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from meshflow.errors import MeshflowError

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class NodeStatus(StrEnum):
    """How a node ended, or where it stands in a run that has not ended.

    ``skipped``: no edge led to it that was taken. ``cancelled``: it would have run, or ran, when the run ended.
    ``pending``: it waits for a node that is paused.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    DENIED = "denied"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    LIMIT_REACHED = "limit_reached"


class RunStatus(StrEnum):
    """How a run ended; ``completed`` only if every node did that should have run."""

    COMPLETED = "completed"
    DENIED = "denied"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    LIMIT_REACHED = "limit_reached"


class WorkflowRunError(MeshflowError):
    """A run that did not complete; ``result`` says why. Raised by ``WorkflowResult.unwrap``."""

    def __init__(self, message: str, result: WorkflowResult) -> None:
        self.result = result
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """How one node ended. ``runs`` counts loops, ``attempts`` tries in all; ``step_ids`` are its steps in the ledger.

    ``undone`` is the status of its compensation, or None where none was due. ``inner`` are the nodes of a subgraph, and
    the items of a map, by their place, that were begun and did not complete or in which something was undone.
    """

    name: str
    kind: str
    status: NodeStatus
    code: str = ""
    reason: str = ""
    output: Any = None
    cost_micro_usd: int = 0
    tokens: int = 0
    runs: int = 0
    attempts: int = 0
    step_ids: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    undone: NodeStatus | None = None
    inner: Mapping[str, NodeResult] = field(default_factory=lambda: _NOTHING)

    @property
    def cost_usd(self) -> float:
        """What the node cost, in USD."""
        return self.cost_micro_usd / 1_000_000

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name, "kind": self.kind, "status": self.status.value, "code": self.code,
            "reason": self.reason, "output": self.output, "cost_usd": self.cost_usd, "tokens": self.tokens,
            "runs": self.runs, "attempts": self.attempts, "step_ids": list(self.step_ids),
            "approvals": list(self.approvals), "undone": self.undone.value if self.undone is not None else None,
            "inner": [node.to_dict() for node in self.inner.values()],
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowResult:
    """How a run ended. ``output`` is None unless it completed; ``approvals`` are the ids that it waits for.

    ``code`` and ``reason`` say why it did not complete, ``node`` at which node.
    """

    workflow: str
    run_id: str
    status: RunStatus
    output: Any = None
    code: str = ""
    reason: str = ""
    node: str = ""
    nodes: Mapping[str, NodeResult] = field(default_factory=lambda: _NOTHING)
    approvals: tuple[str, ...] = ()
    cost_micro_usd: int = 0
    tokens: int = 0
    steps: int = 0
    duration_ms: float = 0.0

    @property
    def ok(self) -> bool:
        """True when the run completed."""
        return self.status is RunStatus.COMPLETED

    @property
    def cost_usd(self) -> float:
        """What the run cost, in USD."""
        return self.cost_micro_usd / 1_000_000

    def named(self, status: NodeStatus | str) -> tuple[str, ...]:
        """Return the names of the nodes with a status."""
        return tuple(name for name, node in self.nodes.items() if node.status == status)

    def unwrap(self) -> Any:
        """Return the output of a completed run; raise WorkflowRunError for any other."""
        if self.ok:
            return self.output
        at = f" at node {self.node}" if self.node else ""
        raise WorkflowRunError(f"the run is {self.status.value}{at}: {self.code}: {self.reason}", self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "workflow": self.workflow, "run_id": self.run_id, "status": self.status.value, "output": self.output,
            "code": self.code, "reason": self.reason, "node": self.node, "approvals": list(self.approvals),
            "cost_usd": self.cost_usd, "tokens": self.tokens, "steps": self.steps, "duration_ms": self.duration_ms,
            "nodes": [node.to_dict() for node in self.nodes.values()],
        }  # fmt: skip
