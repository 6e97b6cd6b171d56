"""Compile the chosen providers into one frozen pipeline with a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from meshflow.errors import PluginError
from meshflow.kernel.bind import Binding, bind, full_call
from meshflow.registry.providers import Provider
from meshflow.registry.select import StageChoice
from meshflow.stages import STAGES, Combine, Kind, Stage

DEFAULT_TIMEOUT_MS = 5_000
RECORDER_TIMEOUT_MS = 30_000
NO_TIMEOUT_MS = 10 * 365 * 86_400_000
"""Stage 12 is bounded by its executor, which knows the step; the kernel adds a bound only where one is configured."""


class CompiledStage(NamedTuple):
    """A stage with its enforced bindings, group by group, and its shadows."""

    stage: Stage
    bindings: tuple[Binding, ...]
    shadows: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """All that a step passes, fixed when compiled. ``fingerprint`` identifies it in every record."""

    entry: tuple[Binding, ...]
    gates: tuple[Binding, ...]
    """Stages 3 to 11, flat: each stage's enforced bindings, then its shadows."""
    execution: Binding
    output: tuple[Binding, ...]
    audit: tuple[Binding, ...]
    sla: tuple[Binding, ...]
    redactors: tuple[Binding, ...]
    intents: tuple[tuple[str, Callable[..., Any]], ...]
    settlers: tuple[tuple[str, Callable[..., Any]], ...]
    find_approval: Callable[..., Any] | None
    met_after: tuple[frozenset[str], ...]
    """By stage number: the obligations that an enforced provider of a later stage meets."""
    fingerprint: str
    unsafe: tuple[str, ...]
    choices: tuple[StageChoice, ...]
    providers: Mapping[str, Provider]


def compile_pipeline(choices: Sequence[StageChoice], unsafe: tuple[str, ...] = ()) -> Pipeline:
    """Return the pipeline for the choices, which list all fifteen stages in order."""
    wrappers = _wrappers(choices)
    stages = [_compile_stage(choice, wrappers) for choice in choices]
    by_kind = {kind: [stage for stage in stages if stage.stage.kind is kind] for kind in Kind}
    gates, (execution,), (output,) = by_kind[Kind.GATE], by_kind[Kind.EXECUTION], by_kind[Kind.OUTPUT]
    audit, sla = by_kind[Kind.RECORDER]
    providers = {slot.provider.name: slot.provider for choice in choices for slot in choice.slots}
    sensitive = next(stage for stage in gates if stage.stage.hook == "scan_sensitive_data")
    auditors = [binding.provider for binding in audit.bindings]
    return Pipeline(
        entry=_flat(gates[:2]),
        gates=_flat(gates[2:]),
        execution=execution.bindings[0],
        output=_flat([output]),
        audit=audit.bindings,
        sla=sla.bindings,
        redactors=sensitive.bindings or sensitive.shadows,
        intents=_lifecycle(auditors, "record_intent", ("context",)),
        settlers=_lifecycle(_settling_order(choices), "settle_step", ("context", "record")),
        find_approval=next((call for _, call in _lifecycle(auditors, "find_approval", ("context",))), None),
        met_after=_met_after(stages),
        fingerprint=_fingerprint(choices),
        unsafe=unsafe,
        choices=tuple(choices),
        providers=providers,
    )


def _compile_stage(choice: StageChoice, wrappers: Sequence[tuple[str, Any]]) -> CompiledStage:
    stage = choice.stage
    bindings = [
        bind(
            stage,
            slot.provider,
            timeout_ms=choice.timeout_ms or _default_timeout_ms(stage),
            enforced=slot.enforced,
            wrappers=[(name, wrapper) for name, wrapper in wrappers if name != slot.provider.name],
            tenant=slot.tenant,
        )
        for slot in choice.slots
    ]
    enforced = [binding for binding in bindings if binding.enforced]
    groups = [enforced]
    if stage.combine is Combine.FIRST_APPLICABLE:
        own = [binding for binding in enforced if binding.tenant is not None]
        groups = [[binding for binding in enforced if binding.tenant is None], own]
    return CompiledStage(
        stage,
        tuple(binding for group in groups for binding in _closed(group)),
        tuple(binding for binding in bindings if not binding.enforced),
    )


def _closed(group: list[Binding]) -> list[Binding]:
    """Return a group with its last binding marked: each group must answer, the base's and then the tenant's own."""
    return [*group[:-1], replace(group[-1], closes=True)] if group else []


def _flat(stages: Sequence[CompiledStage]) -> tuple[Binding, ...]:
    return tuple(binding for stage in stages for binding in (*stage.bindings, *stage.shadows))


def _default_timeout_ms(stage: Stage) -> int:
    if stage.kind is Kind.EXECUTION:
        return NO_TIMEOUT_MS
    return RECORDER_TIMEOUT_MS if stage.kind is Kind.RECORDER else DEFAULT_TIMEOUT_MS


def _wrappers(choices: Sequence[StageChoice]) -> list[tuple[str, Any]]:
    wrappers: dict[str, Any] = {}
    for choice in choices:
        for slot in choice.slots:
            hook = slot.provider.hooks.get("wrap_stage")
            if hook is not None:
                wrappers[slot.provider.name] = _guarded_wrapper(slot.provider.name, hook)
    return list(wrappers.items())


def _guarded_wrapper(name: str, hook: Any) -> Any:
    call = full_call(hook, ("stage", "call_next"))

    def wrapper(stage: Stage, call_next: Any) -> Any:
        try:
            return call(stage, call_next)
        except Exception as error:
            raise PluginError(f"plugin {name!r}: wrap_stage failed: {type(error).__name__}: {error}") from error

    return wrapper


def _lifecycle(
    providers: Sequence[Provider], hook: str, arguments: tuple[str, ...]
) -> tuple[tuple[str, Callable[..., Any]], ...]:
    return tuple(
        (provider.name, full_call(provider.hooks[hook], arguments)) for provider in providers if hook in provider.hooks
    )


def _settling_order(choices: Sequence[StageChoice]) -> list[Provider]:
    """Return the enforced providers in reverse order of the stages, each once."""
    seen: dict[str, Provider] = {}
    for choice in reversed(choices):
        for slot in reversed(choice.slots):
            if slot.enforced:
                seen.setdefault(slot.provider.name, slot.provider)
    return list(seen.values())


def _met_after(stages: Sequence[CompiledStage]) -> tuple[frozenset[str], ...]:
    met: list[frozenset[str]] = [frozenset()] * (len(STAGES) + 2)
    for compiled in reversed(stages):
        number = compiled.stage.number
        here = frozenset().union(*(binding.meets for binding in compiled.bindings))
        met[number - 1] = met[number] | here
    return tuple(met)


def _fingerprint(choices: Sequence[StageChoice]) -> str:
    rows = [
        [
            choice.stage.name,
            slot.provider.name,
            slot.provider.distribution,
            slot.provider.version,
            "enforce" if slot.enforced else "shadow",
            slot.provider.settings_digest,
            slot.provider.plugin.digest(),
        ]
        for choice in choices
        for slot in choice.slots
    ]
    return sha256(b"meshflow/pipeline/v1\x00" + orjson.dumps(rows)).hexdigest()
