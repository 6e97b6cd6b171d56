"""Check what a file says of stages against what each of the fifteen stages permits."""

from __future__ import annotations

from collections.abc import Iterator

from meshflow.config.merge import tenant_sections
from meshflow.config.models import RESERVED, Document, StageConfig
from meshflow.config.problems import Problem, unknown
from meshflow.config.source import SettingPath, Source, shown
from meshflow.stages import STAGE_BY_NAME, Combine, Stage

_TIGHTEN = "a tenant may only tighten what the base enforces"
_LAST_BASE_STAGE = 2


def check_document(document: Document, source: Source) -> Iterator[Problem]:
    """Yield everything that is well formed and still not permitted."""
    plugins = document.plugins
    for name in plugins.disable:
        if name in (plugins.allow or ()):
            yield Problem(
                ("plugins", "disable"), f"{_name(name, ('plugins',), source)} stands in plugins.allow too; keep one"
            )
    yield from _check_stages(document, document.stages, (), source)
    for tenant_id, entry in document.tenants.items():
        root: SettingPath = ("tenants", tenant_id)
        for name in RESERVED:
            if name in entry.plugins.model_fields_set:
                yield Problem((*root, "plugins", name), "belongs to the top level's plugins, not to a tenant's")
        for name, value in tenant_sections(entry).items():
            base = getattr(document, name)
            if base is not None and isinstance(base, dict) != isinstance(value, dict):
                shape = "a mapping" if isinstance(base, dict) else "a list or a single value"
                yield Problem((*root, name), f"should be {shape}, as the base's {name} is, to be laid over it")
        yield from _check_stages(document, entry.stages, root, source)


def _check_stages(
    document: Document, stages: dict[str, StageConfig], root: SettingPath, source: Source
) -> Iterator[Problem]:
    for name, config in stages.items():
        path = (*root, "stages", name)
        stage = STAGE_BY_NAME.get(name)
        if stage is None:
            yield Problem(path, unknown("stage", name, STAGE_BY_NAME))
            continue
        yield from _check_providers(document, stage, config, path, source)
        if root:
            yield from _check_tenant(document, stage, config, path)
        else:
            yield from _check_mode(stage, config, path)


def _check_providers(
    document: Document, stage: Stage, config: StageConfig, path: SettingPath, source: Source
) -> Iterator[Problem]:
    use, beside = config.use or (), config.also_shadow
    if stage.combine is Combine.EXACTLY_ONE and len(use) > 1:
        yield Problem((*path, "use"), f"{stage.name} takes exactly one provider, not {len(use)}")
    if beside and stage.never_shadow:
        yield Problem((*path, "also_shadow"), f"{stage.name} has effects and cannot run in shadow; remove also_shadow")
    for name in use:
        if name in beside:
            message = f"{_name(name, path, source)} stands in use too; a plugin is enforced or in shadow"
            yield Problem((*path, "also_shadow"), message)
    for key, names in (("use", use), ("also_shadow", beside)):
        for name in names:
            if name in RESERVED:
                yield Problem((*path, key), f"{name} is a reserved word under plugins, not a plugin")
            if name in document.plugins.disable:
                yield Problem((*path, key), f"plugin {_name(name, path, source)} is listed in plugins.disable")


def _name(name: str, path: SettingPath, source: Source) -> str:
    """Return the name for a message, unless something around it came from the environment."""
    hidden = any(known[: len(path)] == path for known in source.variables)
    return "from the environment" if hidden else shown(name)


def _check_mode(stage: Stage, config: StageConfig, path: SettingPath) -> Iterator[Problem]:
    if config.mode == "shadow" and not stage.shadowable:
        advice = "remove mode" if stage.never_shadow else "later stages need its answer; use also_shadow"
        yield Problem((*path, "mode"), f"{stage.name} cannot run in shadow: {advice}")
    if config.mode == "disabled" and stage.protected and not config.unsafe:
        yield Problem((*path, "mode"), f"{stage.name} protects every step; disabling it also needs unsafe: true")


def _check_tenant(document: Document, stage: Stage, config: StageConfig, path: SettingPath) -> Iterator[Problem]:
    if stage.number <= _LAST_BASE_STAGE:
        yield Problem(path, f"{stage.name} runs before the tenant is known; set it for all under stages")
        return
    if config.mode != "enforce":
        yield Problem((*path, "mode"), f"{_TIGHTEN}; {config.mode} is for the base's stages alone")
    if config.unsafe:
        yield Problem((*path, "unsafe"), f"{_TIGHTEN}; unsafe is for the base's stages alone")
    if config.use and not stage.tenant_may_extend:
        yield Problem((*path, "use"), f"{_TIGHTEN}; {stage.name} has one answer for all tenants")
    base = document.stages.get(stage.name)
    if "mode" in config.model_fields_set and not config.use and base is not None and base.mode != "enforce":
        message = f"the base has {stage.name} in mode {base.mode}; name what the tenant is to have enforced with use"
        yield Problem((*path, "mode"), message)
