"""How an agent's run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from meshflow.errors import StepDeniedError
from meshflow.facts import TaintLabels
from meshflow.record import RuntimeOutcome, Status


@dataclass(frozen=True, slots=True)
class AgentStep:
    """One governed step of the run: a model call or a tool call."""

    step_id: str
    node_id: str
    kind: str
    status: Status
    code: str = ""
    cost_usd: float = 0.0
    tokens: int = 0
    approval_id: str | None = None

    @classmethod
    def of(cls, outcome: RuntimeOutcome) -> AgentStep:
        """Return what a result keeps of an outcome."""
        record = outcome.record
        return cls(
            record.step_id, record.node_id, record.node_kind, outcome.status, outcome.code, outcome.cost_usd,
            record.tokens, outcome.approval_id,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult:
    """What ``Agent.run`` returns; it does not raise for a run that was denied, paused or failed.

    ``output`` is None unless the run completed. ``messages`` is the conversation as JSON-ready dicts, fit for
    ``message_history``. A paused run has ``approvals`` and a ``checkpoint``: hand the checkpoint (JSON-ready too) to
    ``Agent.resume`` once people have decided.
    """

    status: Status
    output: Any
    run_id: str
    agent: str
    code: str = ""
    reason: str = ""
    steps: tuple[AgentStep, ...] = ()
    approvals: tuple[str, ...] = ()
    messages: list[dict[str, Any]] = field(default_factory=list, repr=False)
    checkpoint: dict[str, Any] | None = field(default=None, repr=False)
    labels: TaintLabels = field(default_factory=TaintLabels, repr=False)
    """Of all that the run read and put out, which its answer may hold."""

    @property
    def ok(self) -> bool:
        """True when the run completed."""
        return self.status is Status.COMPLETED

    @property
    def cost_usd(self) -> float:
        """What the run's steps cost, in USD."""
        return sum(step.cost_usd for step in self.steps)

    @property
    def tokens(self) -> int:
        """How many tokens the run's steps took."""
        return sum(step.tokens for step in self.steps)

    def unwrap(self) -> Any:
        """Return the output of a completed run; raise StepDeniedError for any other."""
        if self.ok:
            return self.output
        raise StepDeniedError(f"{self.code or self.status.value}: {self.reason}", self)
