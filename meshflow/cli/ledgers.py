"""Open the ledger that the options or the configuration name."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.cli.options import Chosen
from meshflow.errors import ConfigError, LedgerError, MeshflowError, PluginError

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.ledger import ReplayLedger
    from meshflow.plugin import Plugin

T = TypeVar("T")


def configured_ledger(config: Config, path: str | None = None) -> ReplayLedger | None:
    """Return the configured ledger, or one at ``path`` that is kept as it would be (with its keys and limits).

    None where the audit provider keeps none that commands can read. Nothing is opened.
    """
    return readable_ledger(audit_plugin(config, path))


def audit_plugin(config: Config, path: str | None = None) -> Plugin[Any] | None:
    """Make the plugin that keeps the ledger by configuration, without opening anything.

    None if it is not installed, or if a ``path`` is given and its settings have none.
    """
    from meshflow.config import plugin_settings
    from meshflow.ledger.locate import is_url
    from meshflow.plugin import Host
    from meshflow.registry.discover import discover, import_plugin
    from meshflow.registry.manifest import DEFAULTS

    stage = config.stages.get("audit_ledger")
    name = (stage.use if stage is not None and stage.use else DEFAULTS["audit_ledger"])[0]
    found = discover().get(name)
    if found is None or name in config.disable:
        return None
    plugin_type = import_plugin(found)
    settings = plugin_settings(config, name, plugin_type)
    if path is not None:
        if "path" not in type(settings).model_fields:
            return None
        settings = settings.model_copy(
            update={"path": place if is_url(place := resolved(path)) else os.path.abspath(place)}
        )
    try:
        return plugin_type(settings, Host(base=config.base))
    except MeshflowError:
        raise
    except Exception as error:  # a plugin's constructor may raise anything
        raise PluginError(f"plugin {name!r}: making it failed: {type(error).__name__}: {error}") from error


def readable_ledger(plugin: object) -> ReplayLedger | None:
    """Return a plugin's ledger if commands can read it: one of another make cannot be."""
    from meshflow.ledger import ReplayLedger

    ledger = getattr(plugin, "ledger", None)
    return ledger if isinstance(ledger, ReplayLedger) else None


@asynccontextmanager
async def _opened(options: Chosen, path: str | None, *, writing: bool) -> AsyncIterator[ReplayLedger]:
    """Open a ledger that must be there, for as long as the block runs."""
    from meshflow.ledger import ReplayLedger

    # To read a ledger that is named takes no configuration; to write to it may take a key.
    found = configured_ledger(options.load(), path) if writing or path is None else None
    if found is None and path is None:
        raise ConfigError("the configured audit provider keeps no ledger that can be read here; pass --ledger WHERE")
    ledger = found if found is not None else ReplayLedger(resolved(path or ""))
    if ledger.path is not None and not ledger.path.exists():
        raise LedgerError(f"there is no ledger at {shown(ledger)}; name it with --ledger or --config")
    if ledger.path is not None and not ledger.path.is_file():
        raise LedgerError(f"{shown(ledger)} is not a file, so not a ledger")
    async with ledger:
        yield ledger


def with_ledger(
    options: Chosen, path: str | None, work: Callable[[ReplayLedger], Coroutine[Any, Any, T]], *, writing: bool = False
) -> T:
    """Run ``work`` on the ledger and return its result."""
    import asyncio

    async def run() -> T:
        async with _opened(options, path, writing=writing) as ledger:
            return await work(ledger)

    return asyncio.run(run())


def resolved(place: str) -> str:
    """Return where a ledger is; in a URL, or in place of one, ``${NAME}`` stands for a variable.

    So a password need not stand on the command line, which others may see.
    """
    from meshflow.config.interpolate import InterpolationError, interpolate
    from meshflow.ledger.locate import is_url

    if not (is_url(place) or place.startswith("${")):
        return place
    try:
        return interpolate(place, os.environ)[0]
    except InterpolationError as error:
        raise ConfigError(str(error), path="--ledger") from None


def shown(place: Path | ReplayLedger) -> str:
    """Return a path as a person would type it: relative if it lies below the current folder; a ledger by its name."""
    path = place if isinstance(place, Path) else place.path
    if path is None:
        return place.name
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith(os.pardir) else relative


def command(*words: str, ids: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> str:
    """Return a command line of meshflow to be copied; ids that look like options come last, behind ``--``."""
    dashed = any(one.startswith("-") for one in ids)
    return shlex.join(("meshflow", *words, *options, "--", *ids) if dashed else ("meshflow", *words, *ids, *options))
