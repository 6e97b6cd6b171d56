"""Find installed plugins by entry point without importing any, and import the ones that are wanted.

pluggy's own loader imports everything, lets the first of two equal names win silently, and falls with one broken
import.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any

from meshflow.errors import ConfigError, PluginError
from meshflow.plugin.base import Plugin

GROUP = "meshflow.plugins"
RESERVED_NAMES = frozenset({"allow", "disable"})


@dataclass(frozen=True, slots=True)
class Found:
    """An installed plugin, not imported: its entry point's name and target, and who ships it."""

    name: str
    target: str
    distribution: str
    version: str
    also_in: tuple[str, ...] = ()
    shadowed_by: tuple[str, ...] = ()
    """Distributions that give the same name another target; such a name cannot be used."""


def discover(installed: Iterable[Distribution] | None = None) -> dict[str, Found]:
    """Return every plugin that an installed distribution declares, by name. Nothing is imported."""
    found: dict[str, Found] = {}
    for distribution in distributions() if installed is None else installed:
        for entry in distribution.entry_points:
            if entry.group == GROUP:
                _add(found, entry, distribution)
    return found


def _add(found: dict[str, Found], entry: EntryPoint, distribution: Distribution) -> None:
    name = distribution.metadata["Name"] or "unknown"
    known = found.get(entry.name)
    if known is None:
        found[entry.name] = Found(entry.name, entry.value, name, distribution.version)
    elif name == known.distribution:
        return  # the same distribution seen twice on sys.path
    elif known.target == entry.value:
        found[entry.name] = Found(
            known.name, known.target, known.distribution, known.version, (*known.also_in, name), known.shadowed_by
        )
    else:
        found[entry.name] = Found(
            known.name, known.target, known.distribution, known.version, known.also_in, (*known.shadowed_by, name)
        )


def import_plugin(found: Found) -> type[Plugin[Any]]:
    """Import a plugin's class. Every error names the distribution to mend."""
    origin = f"plugin {found.name!r} of distribution {found.distribution} {found.version}"
    if found.name in RESERVED_NAMES:
        raise PluginError(f"{origin}: the name {found.name!r} is reserved; rename the entry point")
    if found.shadowed_by:
        raise ConfigError(
            f"the plugin name {found.name!r} is claimed by {[found.distribution, *found.shadowed_by]}; "
            f"uninstall all but one of them, or name it in plugins.disable: [{found.name}]"
        )
    try:
        loaded = EntryPoint(found.name, found.target, GROUP).load()
    except Exception as error:
        raise PluginError(
            f"{origin}: importing {found.target} failed: {type(error).__name__}: {error}; "
            f"mend or uninstall it, or name it in plugins.disable: [{found.name}]"
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, Plugin):
        raise PluginError(f"{origin}: {found.target} must be a subclass of meshflow.plugin.Plugin, not {loaded!r}")
    return loaded
