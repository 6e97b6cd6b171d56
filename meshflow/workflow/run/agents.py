"""An agent as a node: a governed step around its run, whose model and tool calls are governed steps of their own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.facts import Confidentiality, Origin, TaintLabels
from meshflow.step import Metered, current_step
from meshflow.workflow.result import NodeStatus
from meshflow.workflow.run.board import Cell, Halt
from meshflow.workflow.run.within import answer, paused_by

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.workflow.run.steps import Run

_WORST = TaintLabels(Origin.EXTERNAL, Confidentiality.SECRET, ("unknown",))


def is_agent(thing: Any) -> bool:
    """Say whether something is a meshflow Agent, or has the methods of one that are used here."""
    return all(inspect.iscoroutinefunction(getattr(thing, name, None)) for name in ("run", "resume"))


@dataclass(slots=True)
class AgentCall:
    """What an agent node's step runs: the agent from its beginning, or from a checkpoint."""

    agent: Any
    runtime: StepRuntime
    checkpoint: Mapping[str, Any] | None = None
    result: Any = field(default=None, init=False)

    def handler(self) -> Callable[[Any], Awaitable[Any]]:
        """Return the step's handler. Steps of the agent belong to the run of the step around them."""

        async def ask(prompt: Any) -> Any:
            step = current_step()
            if step is None:
                raise ConfigError("an agent node runs as a step")
            given: dict[str, Any] = {"runtime": self.runtime}
            if self.checkpoint is None:
                self.result = await self.agent.run(prompt, **given)
            else:
                credential, tenant = step.step.credential, step.step.tenant
                self.result = await self.agent.resume(self.checkpoint, credential=credential, tenant=tenant, **given)
            labels = getattr(self.result, "labels", _WORST)  # of all that it read: its answer may hold any of it
            # What it cost was spent, and recorded, by its own steps.
            if self.paused:
                return Metered(paused_by(self.result.approvals, self.result.checkpoint), cost_usd=0, labels=labels)
            return Metered(answer(self.result.unwrap()), cost_usd=0, labels=labels)

        return ask

    @property
    def paused(self) -> str:
        """The code with which the agent has just come to wait for a person."""
        if self.result is None or self.result.status.value != "paused":
            return ""
        return self.result.code or "approval.asked"

    async def undecided(self) -> bool:
        """Leave it to the agent, which may wait for several."""
        return False

    def settle(self, run: Run, cell: Cell) -> None:
        """Add what the agent's own steps cost."""
        if self.result is not None:
            micro_usd = round(self.result.cost_usd * 1_000_000)
            cell.cost_micro_usd += micro_usd
            cell.tokens += self.result.tokens
            run.cost_micro_usd += micro_usd
            run.tokens += self.result.tokens

    def ended(self) -> Halt | None:
        """Return how the node ended where the agent was denied: as the agent did, and it is not tried again."""
        if self.result is not None and self.result.status.value == "denied":
            return Halt(NodeStatus.DENIED, self.result.code, self.result.reason)
        return None
