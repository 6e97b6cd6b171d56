"""Drive pydantic-ai's loop through one run, and say how the run ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_ai import DeferredToolRequests, FunctionToolset, capture_run_messages
from pydantic_ai.exceptions import AgentRunError, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_ai.tools import DeferredToolResults
from pydantic_ai.usage import UsageLimits

from meshflow.agent.model import GovernedModel
from meshflow.agent.result import AgentResult
from meshflow.agent.run import HELD, AgentRun, RunStopped
from meshflow.agent.toolset import GovernedToolset
from meshflow.record import RuntimeOutcome, Status

if TYPE_CHECKING:
    from meshflow.agent.agent import Agent


def options(agent: Agent, run: AgentRun, history: list[ModelMessage], checkpoint: Mapping[str, Any] | None) -> Any:
    """Return what pydantic-ai's agent is called with: our model, our tools, and nothing that goes round them."""
    functions: FunctionToolset[Any] = FunctionToolset()
    for name, function in agent.tools.items():
        functions.add_function(function, name=name)
    given: dict[str, Any] = {
        "model": GovernedModel(agent._model, run, agent._pricing, agent._max_tokens),
        "toolsets": [GovernedToolset(functions, run, agent.traits)],
        "message_history": history or None,
        "usage_limits": UsageLimits(request_limit=agent._max_model_calls),
        "infer_name": False,
    }
    if checkpoint is not None and checkpoint["calls"]:
        # Whether a person said yes is for the kernel to find out; here the call is only made again.
        given["deferred_tool_results"] = DeferredToolResults(approvals=dict.fromkeys(checkpoint["calls"], True))
    return given


async def drive(
    agent: Agent, run: AgentRun, prompt: Any, history: list[ModelMessage], checkpoint: Mapping[str, Any] | None = None
) -> AgentResult:
    """Run to the end and return the result; only cancellation and errors of the caller's making are raised."""
    given = options(agent, run, history, checkpoint)
    with capture_run_messages() as messages:
        try:
            ended = await agent._inner.run(prompt, **given)
        except Exception as error:
            return stopped(agent, run, error, list(messages) or history)
    return finished(agent, run, ended.output, ended.all_messages())


def finished(agent: Agent, run: AgentRun, output: Any, messages: list[ModelMessage]) -> AgentResult:
    """Return the result of a run that pydantic-ai brought to an end, which may be a pause."""
    if isinstance(output, DeferredToolRequests):
        return _paused(agent, run, messages, [call.tool_call_id for call in output.approvals])
    return _result(agent, run, Status.COMPLETED, messages, output=output)


def stopped(agent: Agent, run: AgentRun, error: BaseException, messages: list[ModelMessage]) -> AgentResult:
    """Return the result of a run that an error ended; an error that is nobody's decision is raised on."""
    outcome = error.outcome if isinstance(error, RunStopped) else run.stopped
    if outcome is not None:
        if outcome.status is Status.PAUSED or outcome.code == HELD:
            return _paused(agent, run, messages, [])
        return _result(agent, run, outcome.status, messages, outcome=outcome)
    if isinstance(error, UsageLimitExceeded):
        return _result(agent, run, Status.FAILED, messages, code="agent.limit_reached", reason=str(error))
    if isinstance(error, AgentRunError):
        return _result(agent, run, Status.FAILED, messages, code="agent.model_behavior", reason=str(error))
    raise error


def refused(agent: Agent, run: AgentRun, messages: list[ModelMessage], code: str, reason: str) -> AgentResult:
    """Return the result of a run that may not go on; no step was taken."""
    return _result(agent, run, Status.DENIED, messages, code=code, reason=reason)


def _paused(agent: Agent, run: AgentRun, messages: list[ModelMessage], calls: list[str]) -> AgentResult:
    waiting = [step for step in run.steps.values() if step.status is Status.PAUSED]
    kept = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
    checkpoint = {
        "v": 1, "agent": agent.name, "run_id": run.template.run_id, "calls": calls, "messages": kept,
        "metadata": dict(run.template.metadata), **run.kept(),
    }  # fmt: skip
    first = next((step for step in waiting if step.code), None)
    return AgentResult(
        status=Status.PAUSED, output=None, run_id=str(run.template.run_id), agent=agent.name,
        code=first.code if first is not None else HELD if run.held else "",
        reason="a person must decide" if first is not None else "what it belongs to is paused",
        steps=tuple(run.steps.values()), messages=kept, checkpoint=checkpoint, labels=run.all_labels(),
        approvals=tuple(step.approval_id for step in waiting if step.approval_id is not None),
    )  # fmt: skip


def _result(
    agent: Agent, run: AgentRun, status: Status, messages: list[ModelMessage], *, output: Any = None,
    outcome: RuntimeOutcome | None = None, code: str = "", reason: str = "",
) -> AgentResult:  # fmt: skip
    return AgentResult(
        status=status, output=output, run_id=str(run.template.run_id), agent=agent.name,
        code=outcome.code if outcome is not None else code, reason=outcome.reason if outcome is not None else reason,
        steps=tuple(run.steps.values()), messages=ModelMessagesTypeAdapter.dump_python(messages, mode="json"),
        labels=run.all_labels(),
    )  # fmt: skip
