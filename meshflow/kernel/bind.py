"""Bind a provider's hook to its name, time-out and wrappers, once, when the pipeline is compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, NamedTuple

from meshflow.errors import PluginError
from meshflow.facts import FACT_OF_STAGE
from meshflow.plugin.hookspecs import CallNext
from meshflow.registry.hooks import Hook
from meshflow.registry.providers import Provider
from meshflow.stages import Combine, Stage

_UNANSWERED = object()


class Failure(NamedTuple):
    """What went wrong in a hook: a cause (``stage_error``, ``stage_timeout``, ``invalid_decision``) and a reason."""

    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class Binding:
    """One provider at one stage, ready to be called with all of the stage's arguments."""

    stage: Stage
    stage_name: str
    name: str
    provider: Provider
    call: Callable[..., Any]
    timeout_s: float
    timeout_ns: int
    enforced: bool
    watched: bool
    """Third-party code: the input's digest is checked after it."""
    meets: frozenset[str]
    fact_type: type | None
    needs_fact: bool
    tenant: str | None = None
    first: bool = False
    """The first answer of its group counts: what stands behind it is not asked any more."""
    closes: bool = False
    """The last enforced one of its group: if the whole group was silent, that may deny."""
    silence_denies: bool = False


def bind(
    stage: Stage,
    provider: Provider,
    *,
    timeout_ms: int,
    enforced: bool,
    wrappers: Sequence[tuple[str, CallNext]] = (),
    tenant: str | None = None,
) -> Binding:
    """Return the binding of a provider's hook for a stage."""
    call = full_call(provider.hooks[stage.hook], stage.arguments)
    wrapped = _wrap(stage, provider.name, call, wrappers)
    return Binding(
        stage=stage,
        stage_name=stage.name,
        name=provider.name,
        provider=provider,
        call=wrapped or call,
        timeout_s=timeout_ms / 1000,
        timeout_ns=timeout_ms * 1_000_000,
        enforced=enforced,
        watched=provider.third_party or wrapped is not None,
        meets=type(provider.plugin).meets,
        fact_type=FACT_OF_STAGE.get(stage.name),
        needs_fact=stage.name in FACT_OF_STAGE and stage.silence_denies,
        tenant=tenant,
        first=stage.combine is Combine.FIRST_APPLICABLE,
        silence_denies=stage.silence_denies,
    )


def full_call(hook: Hook, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Return a callable that takes all of a hook's arguments, for an implementation that may declare fewer."""
    if hook.arguments == arguments:
        return hook.function
    picked = tuple(arguments.index(name) for name in hook.arguments)
    function = hook.function
    return lambda *given: function(*[given[index] for index in picked])


def _wrap(
    stage: Stage, provider: str, call: Callable[..., Any], wrappers: Sequence[tuple[str, CallNext]]
) -> CallNext | None:
    """Return the call inside its wrappers, which must hand on its very answer; None where nothing wraps it."""

    async def innermost(*args: Any) -> Any:
        answer = call(*args)
        if isinstance(answer, CoroutineType):
            answer = await answer
        args[0]._state.handed = answer
        return answer

    outer: CallNext = innermost
    for name, wrapper in reversed(wrappers):
        around = wrapper(stage, outer)
        if around is None:
            continue
        if not callable(around):
            raise PluginError(f"plugin {name!r}: wrap_stage must return a callable or None, not {around!r}")
        outer = around
    if outer is innermost:
        return None

    async def outermost(*args: Any) -> Any:
        state = args[0]._state
        state.handed = _UNANSWERED
        answer: Any = outer(*args)
        if isinstance(answer, CoroutineType):
            answer = await answer
        if answer is not state.handed:
            return Failure("invalid_decision", f"a wrapper around {provider} did not hand on its answer")
        return answer

    return outermost
