"""Check every setting of a configuration without making a plugin: for whoever reads it and runs no pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshflow.config.models import Config, StageConfig
from meshflow.config.settings import check_sections, plugin_settings, unknown_plugin_settings
from meshflow.errors import PluginError
from meshflow.plugin.base import Host, Plugin
from meshflow.registry.manifest import DEFAULTS, FIRST_PARTY
from meshflow.registry.providers import Shelf


def check_config(config: Config) -> None:
    """Raise ConfigError for a setting that no plugin takes, or that one refuses, the base's or a tenant's.

    A plugin that cannot be imported is passed over, and the sections with it, since it may be the one that reads them:
    what is broken in one place is to stop nobody from reading evidence in another. Making a runtime refuses it.
    """
    if not (config.sections or config.plugins or config.tenants or config.stages or config.allow or config.disable):
        return
    shelf = Shelf.open(config, Host(base=config.base), {})
    types: dict[str, type[Plugin[Any]]] = {}
    broken = False
    for name, where in _wanted(config, shelf):
        try:
            types[name] = shelf.plugin_type(name, where)
        except PluginError:
            broken = True
    unknown_plugin_settings(config, (*shelf.names, *FIRST_PARTY))
    if not broken:
        check_sections(config, types)
    for name, plugin_type in types.items():
        for tenant in (None, *config.tenants):
            if _is_set(config, name, plugin_type, tenant):
                plugin_settings(config, name, plugin_type, tenant=tenant)


def _wanted(config: Config, shelf: Shelf) -> Iterator[tuple[str, str]]:
    """Yield every plugin that may serve a stage, and where it is named: chosen, default, or joining by itself."""
    for stage, defaults in DEFAULTS.items():
        chosen = config.stages.get(stage, StageConfig())
        if chosen.use is None and chosen.mode != "disabled":
            yield from ((name, "") for name in defaults if name in shelf.found)
    yield from ((name, "") for name in shelf.third_party_names())
    yield from _named(config, config.stages, ("stages",))
    for tenant, entry in config.tenants.items():
        yield from _named(config, entry.stages, ("tenants", tenant, "stages"))


def _named(config: Config, stages: Mapping[str, StageConfig], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for stage, chosen in stages.items():
        where = config.where((*path, stage))
        yield from ((name, where) for name in (*(chosen.use or ()), *chosen.also_shadow))


def _is_set(config: Config, name: str, plugin_type: type[Plugin[Any]], tenant: str | None) -> bool:
    view = config if tenant is None else config.merged_with(tenant)
    return name in view.plugins or plugin_type.section in view.sections
