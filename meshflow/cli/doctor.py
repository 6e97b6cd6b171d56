"""``meshflow plugins doctor``: everything about the installed plugins that can be checked without a step."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import TYPE_CHECKING, Any, NamedTuple

from meshflow.cli.exits import ExitCode
from meshflow.cli.options import Chosen
from meshflow.cli.output import print_json, print_table, say
from meshflow.errors import MeshflowError

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.plugin import Plugin
    from meshflow.registry.discover import Found

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OK, WARNING, ERROR = "ok", "warning", "error"


class Check(NamedTuple):
    """One thing that was looked at: its level, the plugin, what was checked, and what was found."""

    level: str
    plugin: str
    check: str
    message: str


def examine(options: Chosen, *, start: bool) -> ExitCode:
    """Check, print, and return 3 if anything is wrong."""
    from meshflow.registry.discover import discover

    config = options.read()
    found = discover()
    checks = [check for _, one in sorted(found.items()) for check in _plugin(one, config)]
    checks += _dependencies({one.distribution for one in found.values()})
    checks += _runtime(config, start=start)
    sound = not any(check.level == ERROR for check in checks)
    if options.as_json:
        print_json({"ok": sound, "checks": [check._asdict() for check in checks]})
    else:
        wrong = [check for check in checks if check.level != OK]
        if wrong:
            print_table("", ("level", "plugin", "check", "found"), wrong)
        counts = {level: sum(check.level == level for check in checks) for level in (OK, WARNING, ERROR)}
        say(f"{len(found)} plugins: {counts[OK]} checks passed, {counts[WARNING]} warnings, {counts[ERROR]} errors")
    return ExitCode.OK if sound else ExitCode.CONFIG


def _plugin(one: Found, config: Config) -> Iterator[Check]:
    """Check one plugin's names, import, hooks and settings."""
    from meshflow.registry.discover import import_plugin
    from meshflow.registry.hooks import declared_hooks

    if one.name in config.disable:
        yield Check(OK, one.name, "import", "disabled, so not imported")
        return
    if one.also_in:
        owners = ", ".join((one.distribution, *one.also_in))
        yield Check(
            WARNING, one.name, "ownership",
            f"shipped by {owners}; uninstalling one of them takes the plugin's files away from the other",
        )  # fmt: skip
    try:
        plugin_type = import_plugin(one)
        hooks = declared_hooks(one.name, plugin_type)
    except MeshflowError as error:
        yield Check(ERROR, one.name, "name" if one.shadowed_by else "import", str(error))
        return
    yield Check(OK, one.name, "import", f"{one.target} has {len(hooks)} hooks")
    yield from _made(one, plugin_type, config)


def _made(one: Found, plugin_type: type[Plugin[Any]], config: Config) -> Iterator[Check]:
    """Make the plugin with its settings, which opens nothing, and check its hooks as the runtime does."""
    from meshflow.config import plugin_settings
    from meshflow.plugin import Host
    from meshflow.registry.hooks import hooks_of
    from meshflow.registry.manifest import BESIDE

    wanted = one.name in config.plugins or _named(one.name, config)
    if one.name in BESIDE and not wanted:
        yield Check(OK, one.name, "settings", "not in use, so none are needed")
        return
    try:
        settings = plugin_settings(config, one.name, plugin_type)
    except MeshflowError as error:
        yield Check(ERROR if wanted else WARNING, one.name, "settings", str(error))
        return
    yield Check(OK, one.name, "settings", "valid")
    try:
        hooks_of(one.name, plugin_type(settings, Host(base=config.base)))
    except MeshflowError as error:
        yield Check(ERROR, one.name, "hooks", str(error))
    except Exception as error:  # a plugin's constructor may raise anything, and the others are still to be checked
        yield Check(ERROR, one.name, "hooks", f"making it failed: {type(error).__name__}: {error}")
    else:
        yield Check(OK, one.name, "hooks", "sound")


def _named(name: str, config: Config) -> bool:
    """Say whether a stage names the plugin, or it is one of the defaults."""
    from meshflow.registry.manifest import FIRST_PARTY

    stages = config.stages.values()
    return name in FIRST_PARTY or any(name in (*(stage.use or ()), *(stage.also_shadow or ())) for stage in stages)


def _dependencies(distributions: Iterable[str]) -> Iterator[Check]:
    """Check that what a distribution needs in any case is installed; versions are left to the installer."""
    for name in sorted(distributions):
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        missing = [one for one in needed if ";" not in one and not _installed(one)]
        if missing:
            yield Check(ERROR, name, "dependencies", f"not installed: {', '.join(missing)}")
        else:
            yield Check(OK, name, "dependencies", "installed")


def _installed(requirement: str) -> bool:
    name = _REQUIREMENT.match(requirement)
    if name is None:
        return True
    try:
        distribution(name[0])
    except PackageNotFoundError:
        return False
    return True


def _runtime(config: Config, *, start: bool) -> Iterator[Check]:
    from meshflow.kernel.runtime import StepRuntime

    try:
        runtime = StepRuntime(config=config)
    except MeshflowError as error:
        yield Check(ERROR, "", "configuration", str(error))
        return
    yield Check(OK, "", "configuration", f"compiles to {runtime.fingerprint[:12]}")
    yield from _profiles(runtime)
    if start:
        yield _started(runtime)
        yield from _webhook(config)


def _started(runtime: StepRuntime) -> Check:
    async def start_and_stop() -> None:
        async with runtime:
            pass

    try:
        asyncio.run(start_and_stop())
    except MeshflowError as error:
        return Check(ERROR, "", "start", str(error))
    return Check(OK, "", "start", "every plugin starts and stops")


def _webhook(config: Config) -> Iterator[Check]:
    """Say whether a connection to the webhook for approvals can be made; nothing is posted."""
    from meshflow.kernel.post import unreachable

    if config.approvals.webhook is None:
        return
    if problem := unreachable(config.approvals.webhook):
        where = config.where(("approvals", "webhook", "url"))
        yield Check(WARNING, "", "webhook", f"{where}: approvals.webhook.url cannot be reached: {problem}")
    else:
        yield Check(OK, "", "webhook", "can be reached")


def _profiles(runtime: StepRuntime) -> Iterator[Check]:
    """Say which profile packs are active. That what they require is there was checked when the runtime was made.

    Obligations that a policy lays on a step while it runs cannot be known beforehand; unmet, they deny the step.
    """
    seen: set[int] = set()
    for tenant in (None, *runtime.config.tenants):
        for slot in (slot for choice in runtime.stages(tenant) for slot in choice.slots):
            packs = getattr(slot.provider.plugin, "packs", None)
            if not callable(packs) or id(slot.provider) in seen:
                continue
            seen.add(id(slot.provider))
            for pack in packs():
                met = "what it requires is there" if slot.enforced else "on trial in shadow, so nothing is required"
                yield Check(OK, slot.provider.name, "profiles", f"{pack.manifest.name}: {met}")
