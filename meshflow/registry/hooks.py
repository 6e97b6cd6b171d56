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
        caller.name: _checked(name, implementation)
        for caller in manager.get_hookcallers(plugin) or ()
        for implementation in caller.get_hookimpls()
    }
    _refuse_unmarked(name, plugin, hooks)
    if not hooks:
        raise PluginError(f"plugin {name!r} has no hook; mark at least one method with @hookimpl")
    return hooks


def _checked(name: str, implementation: pluggy.HookImpl) -> Hook:
    hook = implementation.opts.get("specname") or implementation.function.__name__
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


def _refuse_unmarked(name: str, plugin: Plugin[Any], hooks: Mapping[str, Hook]) -> None:
    functions = {hook.function.__name__ for hook in hooks.values()}
    for hook in _HOOK_NAMES:
        if hook not in functions and callable(getattr(type(plugin), hook, None)):
            raise PluginError(f"plugin {name!r}: {hook} is not marked with @hookimpl and would never be called")
