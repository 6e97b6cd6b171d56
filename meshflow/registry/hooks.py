"""Check a plugin's hooks by pluggy and by the rules that pluggy does not have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

from meshflow.errors import PluginError
from meshflow.plugin.base import Plugin
from meshflow.plugin.hookspecs import PROJECT, LifecycleSpecs, StageSpecs
from meshflow.stages import LIFECYCLE_HOOKS, STAGE_BY_HOOK

_HOOK_NAMES = (*STAGE_BY_HOOK, *LIFECYCLE_HOOKS)
_SYNC_ONLY = frozenset({"wrap_stage"})


@dataclass(frozen=True, slots=True)
class Hook:
    """One implementation: the bound method, the arguments it declares, and whether it is a coroutine function."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    is_async: bool


def hooks_of(name: str, plugin: Plugin[Any]) -> Mapping[str, Hook]:
    """Return a plugin's hooks by name; raise PluginError for what would fail, or be ignored, at run time.

    A manager is made for each plugin, so that an error names one plugin and order never depends on registration.
    """
    if isinstance(plugin, type):
        raise PluginError(f"plugin {name!r}: register an instance, not the class {plugin.__name__}")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(StageSpecs)
    manager.add_hookspecs(LifecycleSpecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {name!r}: {error}") from error
    hooks = {
        caller.name: _checked(name, caller.name, implementation)
        for caller in manager.get_hookcallers(plugin) or ()
        for implementation in caller.get_hookimpls()
    }
    declared_hooks(name, type(plugin))
    return hooks


def declared_hooks(name: str, plugin_type: type[Plugin[Any]]) -> frozenset[str]:
    """Return the names of the hooks that a class marks, without making it; raise PluginError for one unmarked."""
    marked: set[str] = set()
    for attribute in dir(plugin_type):
        options = getattr(inspect.getattr_static(plugin_type, attribute), f"{PROJECT}_impl", None)
        if options is not None:
            marked.add(options.get("specname") or attribute)
        elif attribute in _HOOK_NAMES and callable(getattr(plugin_type, attribute)):
            raise PluginError(f"plugin {name!r}: {attribute} is not marked with @hookimpl and would never be called")
    if not marked:
        raise PluginError(f"plugin {name!r} has no hook; mark at least one method with @hookimpl")
    return frozenset(marked)


def _checked(name: str, hook: str, implementation: pluggy.HookImpl) -> Hook:
    where = f"plugin {name!r}: {hook}"
    if implementation.hookwrapper or implementation.wrapper:
        raise PluginError(f"{where}: wrapper=True cannot see an async answer; implement wrap_stage instead")
    if implementation.tryfirst or implementation.trylast:
        raise PluginError(f"{where}: tryfirst and trylast have no effect; order comes from stages.<stage>.use")
    for parameter in inspect.signature(implementation.function).parameters.values():
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise PluginError(f"{where}: declare {parameter.name!r} as a plain positional argument")
        if parameter.default is not parameter.empty:
            raise PluginError(f"{where}: argument {parameter.name!r} must not have a default")
    is_async = inspect.iscoroutinefunction(implementation.function)
    if inspect.isasyncgenfunction(implementation.function) or inspect.isgeneratorfunction(implementation.function):
        raise PluginError(f"{where}: a hook returns one answer; it cannot be a generator")
    if is_async and hook in _SYNC_ONLY:
        raise PluginError(f"{where}: must be a plain def; it is called when the pipeline is compiled")
    return Hook(hook, implementation.function, tuple(implementation.argnames), is_async)
