"""What every plugin is: settings, what it meets, and what the host gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from meshflow.clock import Clock, SystemClock
from meshflow.plugin.wiring import Demand, Wiring


class Settings(BaseModel):
    """Settings of a plugin: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoSettings(Settings):
    """For a plugin with nothing to set."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the runtime hands to each plugin that it makes.

    ``base`` is the folder that relative paths in settings start from. ``ledger`` and ``policy`` are the objects given
    to ``StepRuntime(ledger=..., policy=...)``, or None. ``tenant`` is set when the plugin is made for one tenant.
    """

    clock: Clock = field(default_factory=SystemClock)
    base: Path = field(default_factory=Path)
    ledger: Any = None
    policy: Any = None
    tenant: str | None = None


SettingsT = TypeVar("SettingsT", bound=Settings)


class Plugin(Generic[SettingsT]):
    """Base of all plugins. A subclass marks its hooks with ``@hookimpl``.

    ``settings_type`` validates ``plugins.<name>`` of meshflow.yaml. ``section`` names a top-level section of
    meshflow.yaml that holds (part of) the same settings. ``meets`` lists the obligations that the plugin carries out.
    Making a plugin opens nothing: files, threads and connections wait for ``startup``, or for first use. A runtime
    serves several event loops, so a plugin keeps no object that is bound to one.
    """

    settings_type: ClassVar[type[Settings]] = NoSettings
    section: ClassVar[str | None] = None
    meets: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: SettingsT, host: Host | None = None) -> None:
        self.settings = settings
        self.host = host if host is not None else Host()

    def digest(self) -> str:
        """Return what decides beside code and settings, such as a policy bundle's digest; part of the fingerprint."""
        return ""

    def assures(self) -> Mapping[str, Any]:
        """Return what the plugin, set as it is, vouches for, such as ``{"verified_identity": True}``.

        The names and their values are those of docs/reference/profiles.md. Profile packs require them.
        """
        return {}

    def demands(self, wiring: Wiring) -> Iterable[Demand]:
        """Yield what the plugin needs of the pipeline that it is enforced in and does not find; each stops the start.

        Asked once for each pipeline, after all plugins were made and before any is started.
        """
        return ()

    @property
    def watch_s(self) -> float:
        """How often ``changed`` is asked, in seconds; 0 for never."""
        return 0.0

    def changed(self) -> str:
        """Return a sign of how the files behind ``digest`` differ from when this was made; empty where they do not.

        Asked on a thread of the runtime's own. When the same new sign is seen twice, the runtime reloads itself.
        """
        return ""

    def adopt(self, previous: Plugin[Any]) -> None:
        """Take over the state of the instance that this one replaces on reload, such as what a budget has spent."""
