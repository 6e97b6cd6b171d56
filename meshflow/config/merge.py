"""Lay a tenant's settings over the base's and remember which of both each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshflow.config.source import SettingPath
from meshflow.errors import ContractError

if TYPE_CHECKING:
    from meshflow.config.models import Config, TenantConfig

_Origins = dict[SettingPath, SettingPath]


def own_entry(config: Config, tenant_id: str) -> Config:
    """Return what a tenant's entry sets; see ``Config.for_tenant``."""
    entry = _entry(config, tenant_id)
    sections = {} if entry is None else tenant_sections(entry)
    origins: _Origins = {(key,): ("tenants", tenant_id, key) for key in ("stages", "plugins", *sections)}
    return replace(
        config,
        stages={} if entry is None else entry.stages,
        plugins={} if entry is None else entry.plugins.model_extra or {},
        sections=sections,
        tenants={},
        tenant=tenant_id,
        source=replace(config.source, origins=origins),
    )


def merged_with(config: Config, tenant_id: str) -> Config:
    """Return the base's settings with the tenant's over them; see ``Config.merged_with``."""
    entry = _entry(config, tenant_id)
    if entry is None:
        return replace(config, tenant=tenant_id, tenants={})
    origins: _Origins = {}
    root: SettingPath = ("tenants", tenant_id)
    sections = dict(config.sections)
    for name, value in tenant_sections(entry).items():
        sections[name] = _section(sections.get(name), value, (name,), root, origins)
    plugins = _over(config.plugins, entry.plugins.model_extra or {}, ("plugins",), root, origins)
    source = replace(config.source, origins=origins)
    return replace(config, plugins=plugins, sections=sections, tenants={}, tenant=tenant_id, source=source)


def _entry(config: Config, tenant_id: str) -> TenantConfig | None:
    if config.tenant is not None:
        raise ContractError(f"this is a view of tenant {config.tenant}; ask the base for tenant {tenant_id}")
    return config.tenants.get(tenant_id)


def tenant_sections(entry: TenantConfig) -> dict[str, Any]:
    """Return the sections that a tenant sets."""
    sections = {"limits": entry.limits, "profiles": entry.profiles, "tools": entry.tools}
    return {name: value for name, value in sections.items() if value is not None}


def _section(base: Any, value: Any, path: SettingPath, root: SettingPath, origins: _Origins) -> Any:
    if isinstance(base, Mapping) and isinstance(value, Mapping):
        return _over(base, value, path, root, origins)
    if not isinstance(base, list) or not isinstance(value, list):
        origins[path] = root + path
        return value
    joined = list(base)
    texts = {item for item in base if isinstance(item, str)}
    for index, item in enumerate(value):
        if not isinstance(item, str) or item not in texts:
            origins[(*path, len(joined))] = (*root, *path, index)
            joined.append(item)
    return joined


def _over(
    base: Mapping[str, Any], values: Mapping[str, Any], path: SettingPath, root: SettingPath, origins: _Origins
) -> dict[str, Any]:
    result = dict(base)
    for key, value in values.items():
        below = (*path, key)
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            result[key] = _over(under, value, below, root, origins)
        else:
            origins[below] = root + below
            result[key] = value
    return result
