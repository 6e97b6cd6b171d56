"""What a pipeline is made of, as a plugin sees it that has demands on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshflow.plugin.base import Plugin


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves one stage: ``mode`` as configured, and the plugins by name, enforced or not, in order."""

    mode: str = "enforce"
    enforced: Mapping[str, Plugin[Any]] = field(default_factory=dict)
    shadows: Mapping[str, Plugin[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wiring:
    """The fifteen stages of one pipeline, a tenant's or the base's (``tenant`` is None)."""

    stages: Mapping[str, Served]
    tenant: str | None = None

    def assured(self, stage: str, name: str) -> Iterator[tuple[str, Any]]:
        """Yield each enforced plugin of a stage that vouches for something by this name, and what it says."""
        for plugin_name, plugin in self.stages[stage].enforced.items():
            said = plugin.assures()
            if name in said:
                yield plugin_name, said[name]

    def met_behind(self, stage: str) -> frozenset[str]:
        """Return the obligations that an enforced plugin behind a stage meets."""
        names = list(self.stages)
        behind = names[names.index(stage) + 1 :]
        return frozenset(
            duty for name in behind for plugin in self.stages[name].enforced.values() for duty in plugin.meets
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """Something that a plugin needs and the pipeline does not give; it refuses the start.

    ``setting`` is the path to change in meshflow.yaml, ``because`` the path within the plugin's own settings that asks
    for it, such as ``("profiles", 0)``.
    """

    setting: tuple[str | int, ...]
    message: str
    because: tuple[str | int, ...] = ()
