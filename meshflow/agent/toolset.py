"""Tools whose every call passes the kernel before the function runs, and every result before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_ai.exceptions import ApprovalRequired, ModelRetry, ToolFailed
from pydantic_ai.messages import ModelResponse
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets.abstract import ToolsetTool
from pydantic_ai.toolsets.wrapper import WrapperToolset

from meshflow.agent.handover import Call, calling
from meshflow.agent.run import HELD, AgentRun
from meshflow.agent.traits import ToolTraits
from meshflow.record import RuntimeOutcome, Status
from meshflow.step import current_step


@dataclass
class GovernedToolset(WrapperToolset[Any]):
    """Wraps the tools of one run. A refusal reaches the model as text that names the code and nothing of the policy."""

    run: AgentRun
    traits: Mapping[str, ToolTraits]

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Run one call as a step; a call that waits for a person is deferred, and its siblings go on."""
        call = _Call(self, name, ctx, tool)
        declared = self.traits.get(name, ToolTraits())
        self.run.answers = sum(isinstance(message, ModelResponse) for message in ctx.messages)
        step = self.run.tool_step(
            str(ctx.tool_call_id), node_id=f"{self.run.template.node_id}.{name}", kind="tool", tool=name,
            input=tool_args, handler=call.run, risk=declared.risk, idempotent=declared.idempotent,
        )  # fmt: skip
        outcome = await self.run.run(step)
        if outcome.ok and outcome.step_id in self.run.handed:
            self.run.waits(outcome.step_id)
            raise ApprovalRequired(metadata={"step_id": outcome.step_id})
        if outcome.ok:
            return outcome.output
        if outcome.status is Status.PAUSED or outcome.code == HELD:
            raise ApprovalRequired(metadata={"approval_id": outcome.approval_id, "step_id": outcome.step_id})
        if call.asked is not None:
            self.run.heard(outcome)
            raise call.asked
        raise ToolFailed(_refusal(name, outcome))


class _Call:
    """One call of a tool; keeps what the tool itself wants the model to read."""

    def __init__(self, tools: GovernedToolset, name: str, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> None:
        self._tools, self._name, self._ctx, self._tool = tools, name, ctx, tool
        self.asked: ModelRetry | ToolFailed | None = None

    async def run(self, arguments: Any) -> Any:
        """Call the tool with the arguments as the gates left them."""
        step = current_step()
        try:
            with calling(Call(self._tools.run, step.step_id if step is not None else "")):
                return await self._tools.wrapped.call_tool(self._name, dict(arguments), self._ctx, self._tool)
        except (ModelRetry, ToolFailed) as error:
            self.asked = error
            raise


def _refusal(name: str, outcome: RuntimeOutcome) -> str:
    if outcome.status is Status.DENIED:
        return f"The call of {name} was refused ({outcome.code}). The same call will be refused again."
    return f"The call of {name} failed ({outcome.code})."
