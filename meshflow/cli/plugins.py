"""``meshflow plugins list`` and ``meshflow schema``: what is installed, whether or not all of it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshflow.cli.options import Chosen
from meshflow.cli.output import print_json, print_table, warn
from meshflow.errors import MeshflowError
from meshflow.stages import STAGE_BY_HOOK

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.plugin import Plugin
    from meshflow.registry.discover import Found


def show_plugins(options: Chosen) -> None:
    """Print each installed plugin; one that is broken is listed with what is wrong."""
    from meshflow.registry.discover import discover

    config = options.read()
    in_use, problem = stages_in_use(config)
    rows = [_row(one, config, in_use) for _, one in sorted(discover().items())]
    if options.as_json:
        print_json({"plugins": rows, "problem": problem})
        return
    lines = [
        (row["name"], row["distribution"], row["version"], ", ".join(row["stages"]),
         _use(row, known=in_use is not None), row["target"], row["problem"])
        for row in rows
    ]  # fmt: skip
    print_table("", ("name", "distribution", "version", "can serve", "in use", "target", "problem"), lines)
    if problem is not None:
        warn(f"what is in use is not known: {problem}")


def stages_in_use(config: Config) -> tuple[Mapping[str, list[str]] | None, str | None]:
    """Return the stages that each plugin serves by configuration; None, and why, where that cannot be compiled."""
    from meshflow.kernel.runtime import StepRuntime

    try:
        runtime = StepRuntime(config=config)
    except MeshflowError as error:
        return None, str(error)
    used: dict[str, list[str]] = {}
    for tenant in (None, *config.tenants):
        for choice in runtime.stages(tenant):
            for slot in choice.slots:
                served = used.setdefault(slot.provider.name.partition("@")[0], [])
                if choice.stage.name not in served:
                    served.append(choice.stage.name)
    return used, None


def print_schema(options: Chosen) -> None:
    """Print the schema of meshflow.yaml; a plugin that cannot be imported is left out of it, with a warning."""
    from meshflow.config import config_schema
    from meshflow.registry.discover import discover, import_plugin

    config = options.read()
    types: dict[str, type[Plugin[Any]]] = {}
    for name, one in sorted(discover().items()):
        if name in config.disable:
            continue
        try:
            types[name] = import_plugin(one)
        except MeshflowError as error:
            warn(f"left out: {error}")
    print_json(config_schema(types))


def _row(one: Found, config: Config, in_use: Mapping[str, list[str]] | None) -> dict[str, Any]:
    disabled = one.name in config.disable
    hooks, problem = ([], None) if disabled else _hooks(one)
    return {
        "name": one.name,
        "distribution": one.distribution,
        "version": one.version,
        "target": one.target,
        "stages": [stage.name for hook, stage in STAGE_BY_HOOK.items() if hook in hooks],
        "hooks": hooks,
        "in_use": in_use.get(one.name, []) if in_use is not None else None,
        "disabled": disabled,
        "also_in": one.also_in,
        "shadowed_by": one.shadowed_by,
        "problem": problem,
    }


def _hooks(one: Found) -> tuple[list[str], str | None]:
    from meshflow.registry.discover import import_plugin
    from meshflow.registry.hooks import declared_hooks

    try:
        return sorted(declared_hooks(one.name, import_plugin(one))), None
    except MeshflowError as error:
        return [], str(error)


def _use(row: Mapping[str, Any], *, known: bool) -> str:
    if row["disabled"]:
        return "disabled"
    if not known:
        return "?"
    return "no" if not row["in_use"] else "yes" if row["in_use"] == row["stages"] else ", ".join(row["in_use"])
