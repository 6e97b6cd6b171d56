"""Hand a task from one agent to another: in the same run, under the same runtime, with labels both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.record import Status
from meshflow.step import Metered, current_step

if TYPE_CHECKING:
    from meshflow.agent.agent import Agent
    from meshflow.agent.run import AgentRun

_AGENT = "__meshflow_agent__"


@dataclass(frozen=True, slots=True)
class Call:
    """The tool call of an agent's run in which a task is handed over."""

    run: AgentRun
    step_id: str


_CALL: ContextVar[Call | None] = ContextVar("meshflow_agent_call", default=None)


def current_call() -> Call | None:
    """Return the tool call that is running, or None outside of one."""
    return _CALL.get()


@contextmanager
def calling(call: Call) -> Iterator[None]:
    """Make a tool call the current one while its function runs."""
    token = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(token)


def hand_over_to(agent: Agent) -> Callable[[str], Any]:
    """Return a function that has an agent do a task."""

    async def hand_over(task: str) -> Any:
        call, step = current_call(), current_step()
        if call is None or step is None:
            return (await agent.run(task)).unwrap()
        run = call.run
        checkpoint = run.handed.pop(call.step_id, None)
        if checkpoint is None:
            result = await agent.run(task, runtime=run.runtime)
        else:
            credential, tenant = step.step.credential, step.step.tenant
            result = await agent.resume(checkpoint, credential=credential, tenant=tenant, runtime=run.runtime)
        run.steps |= {one.step_id: one for one in result.steps}
        # What it cost was spent, and recorded, by its own steps.
        if result.status is Status.PAUSED and result.checkpoint is not None:
            run.handed[call.step_id] = result.checkpoint
            return Metered({"waits_for": list(result.approvals)}, cost_usd=0, labels=result.labels)
        return Metered(result.unwrap(), cost_usd=0, labels=result.labels)

    setattr(hand_over, _AGENT, agent)
    return hand_over


def agent_of(function: Callable[..., Any]) -> Agent | None:
    """Return the agent to which a function hands over; None for any other function."""
    found: Agent | None = getattr(function, _AGENT, None)
    return found


def reached(agent: Agent) -> tuple[Agent, ...]:
    """Return an agent and all to which a run of it may be handed over, each once."""
    found = [agent]
    for one in found:
        found += [to for to in map(agent_of, one.tools.values()) if to is not None and to not in found]
    return tuple(found)


def check_reached(agent: Agent) -> None:
    """Raise ConfigError where agents of one run are to be governed apart, or call different things by one name."""
    tools: dict[str, Any] = {}
    for one in reached(agent):
        if own := apart(one, agent.governance):
            raise ConfigError(
                f"agent {one.name!r} has a {own} of its own, and a run that is handed over stays under that of "
                f"{agent.name!r}; give it to {agent.name!r}",
                where=agent.name,
            )
        for name, function in one.tools.items():
            same = agent_of(function) or function
            if tools.setdefault(name, same) is not same:
                raise ConfigError(f"agents of one run have different tools called {name!r}", where=agent.name)


def apart(agent: Agent, governance: Mapping[str, Any]) -> str:
    """Return the name of what an agent was given to be governed by that is not among these; empty if all is."""
    own = {name: value for name, value in agent.governance.items() if value is not None}
    return next((name for name, value in own.items() if governance.get(name) is not value), "")
