"""Bind a provider's hook to its name, time-out and wrappers, once, when the pipeline is compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from meshflow.errors import PluginError
from meshflow.facts import FACT_OF_STAGE
from meshflow.plugin.hookspecs import CallNext
from meshflow.registry.hooks import Hook
from meshflow.registry.providers import Provider
from meshflow.stages import Stage

UNANSWERED = object()
"""What a wrapper that never called ``call_next`` leaves behind."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One provider at one stage, ready to be called with all of the stage's arguments."""

    stage: Stage
    name: str
    provider: Provider
    call: Callable[..., Any]
    timeout_s: float
    timeout_ns: int
    enforced: bool
    watched: bool
    """Third-party code: the input's digest is checked after it."""
    wrapped: bool
    meets: frozenset[str]
    fact_type: type | None
    needs_fact: bool
    tenant: str | None = None


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
    wrapped = _wrap(stage, call, wrappers)
    return Binding(
        stage=stage,
        name=provider.name,
        provider=provider,
        call=wrapped or call,
        timeout_s=timeout_ms / 1000,
        timeout_ns=timeout_ms * 1_000_000,
        enforced=enforced,
        watched=provider.third_party or wrapped is not None,
        wrapped=wrapped is not None,
        meets=type(provider.plugin).meets,
        fact_type=FACT_OF_STAGE.get(stage.name),
        needs_fact=stage.name in FACT_OF_STAGE and stage.silence_denies,
        tenant=tenant,
    )


def full_call(hook: Hook, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Return a callable that takes all of a hook's arguments, for an implementation that may declare fewer."""
    if hook.arguments == arguments:
        return hook.function
    picked = tuple(arguments.index(name) for name in hook.arguments)
    function = hook.function
    return lambda *given: function(*[given[index] for index in picked])


def _wrap(stage: Stage, call: Callable[..., Any], wrappers: Sequence[tuple[str, CallNext]]) -> CallNext | None:
    if not wrappers:
        return None

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
    return None if outer is innermost else outer
