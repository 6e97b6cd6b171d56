"""What a node calls: found by name before the run begins, and made a handler of a governed step."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

from meshflow.errors import ConfigError
from meshflow.step import Metered, current_step
from meshflow.workflow.plan import PlannedNode
from meshflow.workflow.registry import Registry
from meshflow.workflow.spec.nodes import (
    AgentNode,
    CompensationNode,
    HttpNode,
    McpNode,
    ModelNode,
    PythonNode,
    ToolNode,
)

Handler: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What a step calls and how records name it; ``estimate`` says what it may cost, given its input."""

    handler: Handler
    kind: str
    tool: str | None = None
    action: str | None = None
    estimate: Callable[[Any], tuple[Decimal, int]] | None = None


def target(node: PlannedNode, registry: Registry) -> Target:
    """Return what a node calls; ConfigError where nothing goes by its name."""
    spec = node.spec
    if isinstance(spec, PythonNode):
        found = _imported(spec.import_) if spec.import_ is not None else registry.find("function", spec.call or "")
        return Target(_function(found), spec.step_kind)
    if isinstance(spec, ToolNode):
        return Target(_tool(registry.find("tool", spec.tool)), spec.step_kind, spec.tool)
    if isinstance(spec, AgentNode):
        return Target(_agent(registry.find("agent", spec.agent)), spec.step_kind)
    if isinstance(spec, ModelNode):
        return _model(spec, registry)
    if isinstance(spec, HttpNode):
        from meshflow.workflow.http_call import requester

        return Target(requester(spec, registry), spec.step_kind, spec.tool)
    if isinstance(spec, McpNode):
        from meshflow.workflow.mcp_call import caller

        return Target(caller(registry.find("server", spec.server), spec.tool), spec.step_kind, spec.tool)
    return Target(_answer if node.kind == "human" else same, spec.step_kind)


def undo_target(undo: CompensationNode, registry: Registry) -> Target:
    """Return what a compensation calls."""
    if undo.kind == "tool":
        return Target(_tool(registry.find("tool", undo.tool or "")), "tool", undo.tool)
    return Target(_function(registry.find("function", undo.call or "")), "function")


async def same(value: Any) -> Any:
    """Return what was given: what a node does that only shapes data."""
    return value


async def _answer(_: Any) -> Any:
    """Return who approved, once someone has: the step runs only then."""
    step = current_step()
    approval = step.approval if step is not None else None
    if approval is None:
        raise ConfigError("a person's answer was expected, and there is none")
    return Metered({"approved": True, "approver": approval.approver, "reason": approval.reason}, cost_usd=0)


def noting(handler: Handler, notes: dict[str, Any]) -> Handler:
    """Return the handler, made to note the labels that it puts on its own result: the record has only those it read."""
    if handler in (same, _answer) or inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        return handler

    def noted(value: Any) -> Any:
        if isinstance(value, Metered) and value.labels is not None:
            labels = value.labels
            notes["labels"] = [labels.origin.name.lower(), labels.confidentiality.name.lower()]
        return value

    async def called_async(given: Any) -> Any:
        return noted(await handler(given))

    def called(given: Any) -> Any:
        value = handler(given)
        return _awaited(value, noted) if inspect.isawaitable(value) else noted(value)

    return called_async if _is_async(handler) else called


async def _awaited(value: Any, noted: Handler) -> Any:
    return noted(await value)


def _function(function: Any) -> Handler:
    if not callable(function):
        raise ConfigError(f"{function!r:.80} cannot be called")
    return function  # type: ignore[no-any-return]


def _tool(function: Any) -> Handler:
    """Return a handler that passes the mapping of arguments by name, async if the tool is."""
    _function(function)

    def by_name(arguments: Any) -> Any:
        return function(**_arguments(arguments))

    async def by_name_async(arguments: Any) -> Any:
        return await function(**_arguments(arguments))

    return by_name_async if _is_async(function) else by_name


def _arguments(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"a tool takes a mapping of arguments as its input, not {type(given).__name__}")
    return dict(given)


def _agent(agent: Any) -> Handler:
    run = getattr(agent, "run", None)
    if run is None:
        return _function(agent)
    if not callable(run):
        raise ConfigError(f"an agent has a method run or is a function, and {agent!r:.80} is neither")

    async def ask(prompt: Any) -> Any:
        answer = run(prompt)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Metered) or not hasattr(answer, "output"):
            return answer
        return answer.output

    return ask


def _model(spec: ModelNode, registry: Registry) -> Target:
    """Return what asks a model: the function that was registered, or a request to one of pydantic-ai's models."""
    named = ":" in spec.model or spec.model == "test"
    found = spec.model if named and not registry.has("model", spec.model) else registry.find("model", spec.model)
    if callable(found):
        given = sorted({"instructions", "max_tokens"} & spec.model_fields_set)
        if given or spec.model in registry.prices:
            what = " and ".join(given) or "a price"
            raise ConfigError(f"model {spec.model!r} is a function, which takes no {what}")
        return Target(_function(found), spec.step_kind)
    from meshflow.agent.ask import ModelCall

    call = ModelCall(found, price=registry.prices.get(spec.model), max_tokens=spec.max_tokens)
    return Target(call, spec.step_kind, action=call.model_id, estimate=call.estimate)


def _is_async(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _imported(path: str) -> Any:
    """Import what a file names by its path; only definitions that were read with ``allow_imports`` have such nodes."""
    module, colon, name = path.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"import is package.module:function, not {path!r:.80}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigError(f"importing {path!r:.80} failed: {type(error).__name__}: {error}") from error
    return found
