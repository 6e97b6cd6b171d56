"""The profile packs that a configuration activates, and the one that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.profiles import Pack


def active_packs(config: Config, tenant: str | None = None) -> tuple[Pack, ...]:
    """Return the packs that the base, or a tenant, has active by configuration; none if stage 6 is another plugin's."""
    from meshflow.config import plugin_settings
    from meshflow.config.problems import located
    from meshflow.plugin import Host
    from meshflow.registry.discover import discover, import_plugin

    found = discover().get("compliance")
    if found is None or "compliance" in config.disable:
        return ()
    plugin_type = import_plugin(found)
    settings = plugin_settings(config, "compliance", plugin_type, tenant=tenant)
    packs = getattr(plugin_type(settings, Host(base=config.base, tenant=tenant)), "packs", None)
    try:
        return packs() if callable(packs) else ()
    except ConfigError as error:
        raise located(error, config.source) from None


def named_pack(config: Config, name: str, tenant: str | None = None) -> tuple[Pack, bool]:
    """Return the pack of a name or path with the settings that it has where it is active, and whether it is."""
    from meshflow.profiles import find_pack

    found: dict[str, Pack] = {}
    for pack in active_packs(config, tenant):
        for one in pack.line():
            other = found.setdefault(one.manifest.name, one)
            if other.digest != one.digest and one.manifest.name == name:
                raise ConfigError(f"profile {name!r} is active with two sets of settings; name one by its path")
    return (found[name], True) if name in found else (find_pack(name, {}, config.base), False)
