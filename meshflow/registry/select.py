"""Choose the providers of each stage: what configuration names, then what replaces or joins the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshflow.config.models import TENANT_SECTIONS, Config, TenantConfig
from meshflow.errors import ConfigError, StageConflictError
from meshflow.registry.manifest import DEFAULTS, FIRST_PARTY, POLICY_FOLLOWERS
from meshflow.registry.providers import Provider, Shelf
from meshflow.stages import STAGES, Combine, Stage


@dataclass(frozen=True, slots=True)
class Slot:
    """A provider's place at a stage. ``tenant`` marks one that a tenant added to what the base enforces."""

    provider: Provider
    enforced: bool
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class StageChoice:
    """All that serves one stage, in order. ``mode`` is enforce, shadow or disabled."""

    stage: Stage
    mode: str
    slots: tuple[Slot, ...]
    timeout_ms: int | None


def choose(config: Config, shelf: Shelf) -> tuple[StageChoice, ...]:
    """Return the choice for each stage of the base pipeline, in order of the stages."""
    policy = _names(STAGES[4], config, shelf)
    follows = "rego" in policy
    choices = tuple(_choose_stage(stage, config, shelf, follows) for stage in STAGES)
    _refuse_unknown_settings(config, shelf)
    return choices


def choose_for_tenant(
    config: Config, shelf: Shelf, base: tuple[StageChoice, ...], tenant: str
) -> tuple[StageChoice, ...]:
    """Return the base with the tenant's own providers behind it; what the base enforces stays enforced.

    A plugin whose settings the tenant changes serves the tenant a second time, as ``name@tenant``, wherever the base
    enforces it: both answers count, so the stricter wins.
    """
    own = config.tenants[tenant]
    changed = _changed_plugins(own, shelf)
    choices = []
    for choice in base:
        stage, settings = choice.stage, own.stages.get(choice.stage.name)
        named = tuple(settings.use or ()) if settings is not None else ()
        served = [slot.provider.name for slot in choice.slots if slot.enforced]
        names = [*named, *(name for name in served if name in changed and name not in named)]
        if not stage.tenant_may_extend:
            names = []
        where = config.where(("tenants", tenant, "stages", stage.name))
        slots = [
            Slot(_tenant_provider(stage, name, name in changed, shelf, tenant, where), True, tenant)
            for name in names
            if name in changed or name not in served
        ]
        shadows = settings.also_shadow if settings is not None else ()
        slots += [
            Slot(_tenant_provider(stage, name, name in changed, shelf, tenant, where), False, tenant)
            for name in shadows
        ]
        mode = "enforce" if slots and choice.mode == "disabled" else choice.mode
        choices.append(StageChoice(stage, mode, choice.slots + tuple(slots), choice.timeout_ms))
    return tuple(choices)


def _tenant_provider(stage: Stage, name: str, changed: bool, shelf: Shelf, tenant: str, where: str) -> Provider:
    provider = shelf.for_tenant(name, tenant) if changed else shelf.provider(name, where)
    _require_hook(provider, stage, where)
    return provider


def _changed_plugins(own: TenantConfig, shelf: Shelf) -> set[str]:
    changed = set(own.plugins.__pydantic_extra__ or {})
    sections = {name for name in TENANT_SECTIONS if getattr(own, name) is not None}
    changed |= {
        name for name, made in shelf.made().items() if type(made.plugin).section in sections and "@" not in name
    }
    return changed


def _choose_stage(stage: Stage, config: Config, shelf: Shelf, follows: bool) -> StageChoice:
    stage_config = config.stages.get(stage.name)
    mode = stage_config.mode if stage_config is not None else "enforce"
    timeout_ms = stage_config.timeout_ms if stage_config is not None else None
    if mode == "disabled":
        if stage.combine is Combine.EXACTLY_ONE:
            raise ConfigError("execution cannot be disabled", where=config.where(("stages", stage.name)))
        return StageChoice(stage, mode, (), timeout_ms)
    names = _names(stage, config, shelf)
    if stage.name in POLICY_FOLLOWERS and not follows and not (stage_config and stage_config.use):
        names = tuple(name for name in names if name != "rego")
    where = config.where(("stages", stage.name, "use"))
    slots = [Slot(_with_hook(shelf, name, stage, where), mode == "enforce") for name in names]
    if not slots:
        raise ConfigError(f"stage {stage.name} has no provider", where=where, path=f"stages.{stage.name}.use")
    beside = config.where(("stages", stage.name, "also_shadow"))
    shadows = stage_config.also_shadow if stage_config is not None else ()
    slots += [Slot(_with_hook(shelf, name, stage, beside), False) for name in shadows]
    return StageChoice(stage, mode, tuple(slots), timeout_ms)


def _names(stage: Stage, config: Config, shelf: Shelf) -> tuple[str, ...]:
    stage_config = config.stages.get(stage.name)
    if stage_config is not None and stage_config.use is not None:
        return tuple(stage_config.use)
    defaults = tuple(name for name in DEFAULTS[stage.name] if name in shelf.found or name in shelf.given)
    handed_in = _implementing(stage, tuple(name for name in shelf.given if name not in FIRST_PARTY), shelf)
    if handed_in and _takes_over(stage):
        return _one(stage, handed_in)
    others = () if stage.protected else _implementing(stage, shelf.third_party_names(), shelf)
    if _takes_over(stage):
        return _one(stage, others) if others else defaults
    return defaults + handed_in + others


def _takes_over(stage: Stage) -> bool:
    return stage.protected or stage.combine in (Combine.FIRST_APPLICABLE, Combine.EXACTLY_ONE)


def _one(stage: Stage, names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > 1 and stage.combine in (Combine.FIRST_APPLICABLE, Combine.EXACTLY_ONE):
        raise StageConflictError(
            f"stage {stage.name} has {len(names)} providers {list(names)}; choose one with stages.{stage.name}.use",
            path=f"stages.{stage.name}.use",
        )
    return names


def _implementing(stage: Stage, names: tuple[str, ...], shelf: Shelf) -> tuple[str, ...]:
    return tuple(name for name in names if shelf.serves(name, stage.hook))


def _with_hook(shelf: Shelf, name: str, stage: Stage, where: str) -> Provider:
    provider = shelf.provider(name, where)
    _require_hook(provider, stage, where)
    return provider


def _require_hook(provider: Provider, stage: Stage, where: str) -> None:
    if stage.hook not in provider.hooks:
        raise ConfigError(
            f"the plugin {provider.name!r} has no hook {stage.hook} and cannot serve stage {stage.name}",
            where=where,
            path=f"stages.{stage.name}.use",
        )
    if stage.name == "audit_ledger" and "record_intent" not in provider.hooks:
        raise ConfigError(
            f"the plugin {provider.name!r} records steps but not intents; an audit provider must implement "
            "record_intent",
            where=where,
            path="stages.audit_ledger.use",
        )


def _refuse_unknown_settings(config: Config, shelf: Shelf) -> None:
    from meshflow.config.settings import check_sections, unknown_plugin_settings

    unknown_plugin_settings(config, (*shelf.names, *FIRST_PARTY))
    types: Mapping[str, type] = {name: type(made.plugin) for name, made in shelf.made().items()}
    check_sections(config, types)
