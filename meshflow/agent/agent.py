"""Agent: a model with tools and instructions, run under governance."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from meshflow.agent.declare import runtime_config, undeclared
from meshflow.agent.handover import apart, check_reached, current_call, hand_over_to, reached
from meshflow.agent.library import need_pydantic_ai, output_function
from meshflow.agent.pricing import Pricing, TokenPrice
from meshflow.agent.result import AgentResult
from meshflow.agent.run import USER, AgentRun, labels_from, new_prefix, steps_from
from meshflow.agent.traits import ToolTraits, name_of, tool, traits_of
from meshflow.errors import ConfigError
from meshflow.facts import TaintLabels
from meshflow.step import ACTING_AGENT, NodeInput, current_step

if TYPE_CHECKING:
    from meshflow.agent.stream import AgentStream
    from meshflow.config.models import Config
    from meshflow.kernel.runtime import StepRuntime

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Agent:
    """An agent on pydantic-ai, each of whose model calls and tool calls is a governed, recorded step.

    ``model`` is whatever pydantic-ai takes: a name such as ``openai:gpt-5``, or a model object; its TestModel and
    FunctionModel work offline. Its price is looked up, and must be known or given as ``price``. ``tools`` are functions
    with annotations (declare risk and clearances with ``tool``), or other agents, to which this one may hand over.
    ``runtime`` governs; without one, the agent makes its own from ``ledger``, ``policy`` and ``config``, and closes it
    with ``aclose``.

    ``max_tokens`` bounds each answer, and so what a call can cost; ``max_model_calls`` bounds the run.
    """

    def __init__(
        self, name: str, *, model: Any, instructions: str | Sequence[str] | None = None,
        tools: Sequence[Callable[..., Any] | Agent] = (), output_type: Any = str, runtime: StepRuntime | None = None,
        ledger: Any = None, policy: Any = None, config: Any = None, price: TokenPrice | None = None,
        max_tokens: int = 4_096, max_model_calls: int = 50, description: str = "", model_settings: Any = None,
        retries: int = 1,
    ) -> None:  # fmt: skip
        need_pydantic_ai()
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError("a name is 1 to 64 letters, digits, dots, dashes or underscores", where="Agent(name=)")
        if runtime is not None and any(one is not None for one in (ledger, policy, config)):
            raise ConfigError("a runtime has its own ledger, policy and config; give the runtime or these", where=name)
        from pydantic_ai import Agent as Inner
        from pydantic_ai import DeferredToolRequests
        from pydantic_ai.models import infer_model

        if (function := output_function(output_type)) is not None:
            raise ConfigError(
                f"{function} would be called with what the model says, and past the gates; make it one of tools=",
                where=f"{name}: output_type",
            )
        self.name = name
        self.description = description
        self._model = infer_model(model)
        self._pricing = Pricing(self._model, price)
        self._max_tokens, self._max_model_calls = (
            _positive(max_tokens, "max_tokens"),
            _positive(max_model_calls, "max_model_calls"),
        )
        functions = [one.as_tool() if isinstance(one, Agent) else one for one in tools]
        self.tools: Mapping[str, Callable[..., Any]] = _by_name(functions)
        self.traits: Mapping[str, ToolTraits] = {key: traits_of(one) for key, one in self.tools.items()}
        self._inner: Any = Inner(
            self._model, output_type=[output_type, DeferredToolRequests], instructions=instructions, name=name,
            model_settings=model_settings, retries=retries,
        )  # fmt: skip
        self._runtime = runtime
        self.governance = {"runtime": runtime, "ledger": ledger, "policy": policy, "config": config}
        self._own: StepRuntime | None = None
        check_reached(self)
        if runtime is not None:
            self.declared_in(runtime.config)

    @property
    def runtime(self) -> StepRuntime:
        """The runtime that governs the agent; its own is made when it is first asked for."""
        if self._runtime is not None:
            return self._runtime
        if self._own is None:
            from meshflow.kernel.runtime import StepRuntime

            config = self.governance["config"]
            for one in reached(self):
                config = runtime_config(config, one.tools, one.traits)
            self._own = StepRuntime(self.governance["ledger"], self.governance["policy"], config=config)
        return self._own

    def declared_in(self, config: Config) -> None:
        """Raise ConfigError where its tools, or those of agents it hands over to, have clearances not in ``config``."""
        for one in reached(self):
            undeclared(config, one.traits)

    def govern_by(self, runtime: StepRuntime, ledger: Any = None) -> None:
        """Be governed by a runtime from now on; ConfigError where the agent was made with other governance."""
        self.declared_in(runtime.config)
        if self._runtime is not runtime and (own := apart(self, {"ledger": ledger})):
            raise ConfigError(
                f"the agent has a {own} of its own, which would no longer count; leave it out", where=self.name
            )
        self._runtime = runtime

    async def run(
        self, prompt: Any = None, *, run_id: str | None = None, message_history: Sequence[Any] | None = None,
        credential: str | None = None, tenant: str | None = None, labels: TaintLabels | None = None,
        reads: tuple[str, ...] = (), metadata: Mapping[str, Any] | None = None, runtime: StepRuntime | None = None,
    ) -> AgentResult:  # fmt: skip
        """Run until the model has an answer, or a step is denied, fails, or waits for a person.

        ``labels`` say where the prompt comes from (a user, unless said otherwise), and ``reads`` names steps of the run
        whose labels it carries; both follow its data. ``message_history`` goes on from an earlier result's
        ``messages``. Several runs may share a ``run_id``, and with it budgets and labels. Called by the handler of a
        step, the agent runs in that step's run, for whom it runs, with its labels.
        """
        from meshflow.agent.drive import drive

        run = self._begin(run_id, credential, tenant, labels, reads, metadata, runtime)
        return await drive(self, run, prompt, _history(message_history))

    async def resume(
        self, checkpoint: Mapping[str, Any], *, credential: str | None = None, tenant: str | None = None,
        runtime: StepRuntime | None = None,
    ) -> AgentResult:  # fmt: skip
        """Go on with a paused run: what people approved executes, what they rejected is refused to the model.

        Who asks must be who asked. Calls that had completed are not made again.
        """
        from meshflow.agent.drive import drive, refused

        if checkpoint.get("agent") != self.name:
            raise ConfigError(f"the checkpoint is of agent {checkpoint.get('agent')!r}", where=self.name)
        labels = labels_from(checkpoint["labels"])
        run = self._begin(checkpoint["run_id"], credential, tenant, labels, (), checkpoint.get("metadata"), runtime)
        run.prefix, run.principal = checkpoint["prefix"], checkpoint["principal"]
        run.waiting = {step_id: labels_from(one) for step_id, one in checkpoint["waiting"].items()}
        run.steps = steps_from(checkpoint["steps"])
        run.handed, run.held = dict(checkpoint["handed"]), set(checkpoint["held"])
        messages = _history(checkpoint["messages"])
        if await run.is_anothers():
            return refused(self, run, messages, "agent.other_principal", "the run was begun for another principal")
        return await drive(self, run, None, messages, checkpoint)

    def run_sync(self, prompt: Any = None, **options: Any) -> AgentResult:
        """Run for a blocking caller, on the runtime's own loop; works where a loop already runs."""
        runtime = options.get("runtime") or self.runtime
        return runtime.run_blocking(self.run(prompt, **options))

    @asynccontextmanager
    async def stream(self, prompt: Any = None, **options: Any) -> AsyncIterator[AgentStream]:
        """Run, and read the answer's text as the output guardrails release it.

        ``async with agent.stream("...") as stream: async for text in stream: ...``; then ``stream.result``.
        """
        from meshflow.agent.stream import AgentStream

        history = _history(options.pop("message_history", None))
        names = ("run_id", "credential", "tenant", "labels", "reads", "metadata", "runtime")
        if unknown := sorted(set(options) - set(names)):
            raise ConfigError(f"unknown options {unknown}; choose among {list(names)}", where="Agent.stream")
        stream = AgentStream(self, self._begin(*(options.get(name) for name in names)), prompt, history)
        try:
            yield stream
        finally:
            await stream.aclose()

    def as_tool(self, name: str | None = None, description: str | None = None) -> Callable[..., Any]:
        """Return a function by which another agent hands a task to this one.

        This agent then runs in the other's run: same runtime, credential, tenant and budgets, and labels that carry
        what the task was made of; its answer carries those of all that it read. When it pauses, so does the other.
        """

        hand_over = hand_over_to(self)
        hand_over.__name__ = name or f"ask_{re.sub(r'[^A-Za-z0-9_]', '_', self.name)}"
        hand_over.__doc__ = description or self.description or f"Hand a task to {self.name} and return its answer."
        return tool(risk="internal")(hand_over)

    async def aclose(self) -> None:
        """Close the runtime that the agent made for itself."""
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _begin(
        self, run_id: Any, credential: Any, tenant: Any, labels: Any, reads: Any, metadata: Any, runtime: Any
    ) -> AgentRun:
        prefix, outer, agent_id = new_prefix(self.name), current_step(), self.name
        if outer is not None and run_id in (None, outer.run_id):
            run_id, labels = outer.run_id, labels or outer.labels
            credential, tenant = credential or outer.step.credential, tenant or outer.step.tenant
            if outer.principal is not None and outer.principal.verified:  # whose token names another agent
                agent_id, metadata = outer.principal.agent_id, {**(metadata or {}), ACTING_AGENT: self.name}
        template = NodeInput(
            node_id=self.name, run_id=run_id or f"run-{prefix}", agent_id=agent_id, credential=credential,
            tenant=tenant, metadata=metadata or {},
        )  # fmt: skip
        run = AgentRun(runtime or self._runtime_here(), template, prefix, labels or USER)
        run.read(reads or ())
        return run

    def _runtime_here(self) -> StepRuntime:
        """Return the runtime of the agent in whose tool this is, unless this one has governance of its own."""
        call = current_call()
        return self.runtime if call is None or apart(self, {}) else call.run.runtime


def _history(messages: Sequence[Any] | None) -> list[Any]:
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    if messages and isinstance(messages[0], Mapping):
        return ModelMessagesTypeAdapter.validate_python(list(messages))
    return list(messages or ())


def _positive(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"a whole number from 1, not {value!r}", where=f"Agent({name}=)")
    return value


def _by_name(functions: Sequence[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for function in functions:
        if (name := name_of(function)) in found:
            raise ConfigError(f"two tools are called {name!r}; name one with tool(name=)", where="Agent(tools=)")
        found[name] = function
    return found
