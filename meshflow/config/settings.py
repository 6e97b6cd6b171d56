"""Give each plugin its settings: from ``plugins.<name>``, from the section that it reads, and from a tenant's entry."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from meshflow.config.merge import tenant_sections
from meshflow.config.models import SECTIONS, Config
from meshflow.config.names import field_names
from meshflow.config.problems import Problem, did_you_mean, raise_problems, unknown, validate
from meshflow.config.source import SettingPath, dotted, shown
from meshflow.errors import ConfigError, PluginError
from meshflow.plugin import Plugin, Settings

# What a faulty validator may raise beside the ValueError and AssertionError that pydantic reports as wrong settings.
_FAULTS = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError)


def plugin_settings(
    config: Config, plugin_name: str, plugin_type: type[Plugin[Any]], *, tenant: str | None = None
) -> Settings:
    """Return the plugin's settings, validated by its ``settings_type``; ConfigError lists all that is wrong.

    ``plugins.<name>`` and the section that the plugin names must not set the same key. Of a section, a plugin takes the
    keys that its settings have; ``check_sections`` finds those that nobody takes. A section that is no mapping stands
    for one field: see ``shorthand_of``.
    """
    view = config if tenant is None else config.merged_with(tenant)
    own = view.plugins.get(plugin_name, {})
    section = plugin_type.section
    home: SettingPath = ("plugins", plugin_name)
    places: dict[str, SettingPath] = {key: (*home, key) for key in own}
    data = dict(own)
    for key, value, path in _from_section(view, plugin_type):
        if key in places:
            raise _twice(view, places[key], path)
        places[key], data[key] = path, value
    if section in view.sections and plugin_name not in view.plugins:
        home = (str(section),)

    def locate(path: SettingPath) -> SettingPath:
        place = places.get(str(path[0])) if path else None
        return home + path if place is None else place + path[1:]

    try:
        return validate(plugin_type.settings_type, copy.deepcopy(data), view.source, locate)
    except _FAULTS as error:
        fault = f"{type(error).__name__} {_place(error)}"
    # Raised outside the handler, since the error may quote settings.
    raise PluginError(f"plugin {plugin_name}: its settings type raised {fault}; a validator may raise ValueError only")


def setting_place(config: Config, plugin_name: str, plugin_type: type[Plugin[Any]], path: SettingPath) -> SettingPath:
    """Return where in the file a plugin's setting stands: in the section that it reads, or under its name."""
    section = plugin_type.section
    value = None if section is None else config.sections.get(section)
    if section is not None and value is not None:
        if not isinstance(value, Mapping) and path[:1] == (shorthand_of(plugin_type),):
            return (section, *path[1:])
        if isinstance(value, Mapping) and path[0] in value:
            return (section, *path)
    return ("plugins", plugin_name, *path)


def check_sections(config: Config, plugin_types: Mapping[str, type[Plugin[Any]]]) -> None:
    """Raise ConfigError for each key of a section that none of these plugins' settings have; tenants' sections too."""
    raise_problems(_section_problems(config, plugin_types), config.source)


def unknown_plugin_settings(config: Config, known_names: Iterable[str]) -> None:
    """Raise ConfigError for settings of unknown plugins, and for near misses in ``allow`` and ``disable``.

    A name in those may belong to a plugin that is not installed here; a slip of the pen in an installed plugin's name
    would leave that plugin enabled, or shut out.
    """
    raise_problems(_name_problems(config, frozenset(known_names)), config.source)


def shorthand_of(plugin_type: type[Plugin[Any]]) -> str | None:
    """Return the field that the plugin's section stands for when it is a list or a single value.

    It is the one that the settings type names in the class variable ``shorthand``, else the field called as the section
    is, else ``path``; None when there is none.
    """
    known = field_names(plugin_type.settings_type)
    named = getattr(plugin_type.settings_type, "shorthand", None)
    choices = (plugin_type.section, "path") if named is None else (named,)
    return next((name for name in choices if name in known), None)


def _from_section(view: Config, plugin_type: type[Plugin[Any]]) -> Iterator[tuple[str, Any, SettingPath]]:
    section = plugin_type.section
    value = None if section is None else view.sections.get(section)
    if section is None or value is None:
        return
    if not isinstance(value, Mapping):
        field = shorthand_of(plugin_type)
        if field is not None:
            yield field, value, (section,)
        return
    known = field_names(plugin_type.settings_type)
    takes_all = plugin_type.settings_type.model_config.get("extra") == "allow"
    for key, item in value.items():
        if takes_all or key in known:
            yield key, item, (section, key)


def _twice(view: Config, first: SettingPath, second: SettingPath) -> ConfigError:
    written, where = dotted(view.source.written(second)), view.where(second)
    other = written if where == view.name else f"{written} ({where})"
    return Problem(first, f"is set by {other} too; keep one").error(view.source)


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f"at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"


def _section_problems(config: Config, plugin_types: Mapping[str, type[Plugin[Any]]]) -> Iterator[Problem]:
    for name, plugin_type in plugin_types.items():
        if plugin_type.section is not None and plugin_type.section not in SECTIONS:
            raise PluginError(f"plugin {name}: section {plugin_type.section!r} is none of {', '.join(SECTIONS)}")
    for section, value in config.sections.items():
        yield from _check_section(section, value, (section,), plugin_types)
    for tenant_id, entry in config.tenants.items():
        for section, value in tenant_sections(entry).items():
            yield from _check_section(section, value, ("tenants", tenant_id, section), plugin_types)


def _check_section(
    section: str, value: Any, path: SettingPath, plugin_types: Mapping[str, type[Plugin[Any]]]
) -> Iterator[Problem]:
    readers = [plugin_type for plugin_type in plugin_types.values() if plugin_type.section == section]
    if not readers:
        yield Problem(path, "no plugin in use reads this section")
    elif not isinstance(value, Mapping):
        if not any(shorthand_of(reader) for reader in readers):
            yield Problem(path, "should be a mapping")
    elif not any(reader.settings_type.model_config.get("extra") == "allow" for reader in readers):
        known = {name for reader in readers for name in field_names(reader.settings_type)}
        for key in value:
            if key not in known:
                yield Problem((*path, key), unknown("setting", key, known))


def _name_problems(config: Config, known: frozenset[str]) -> Iterator[Problem]:
    for key, names in (("allow", config.allow or ()), ("disable", config.disable)):
        for name in names:
            close = get_close_matches(name[:64], sorted(known), n=1, cutoff=0.8)
            if name not in known and close:
                yield Problem(("plugins", key), f"no plugin {shown(name)} is installed (did you mean {close[0]}?)")
    for name in config.plugins:
        if name not in known:
            yield Problem(("plugins", name), f"no plugin of this name is installed{did_you_mean(name, known)}")
    for tenant_id, entry in config.tenants.items():
        for name in entry.plugins.model_extra or {}:
            if name not in known:
                path = ("tenants", tenant_id, "plugins", name)
                yield Problem(path, f"no plugin of this name is installed{did_you_mean(name, known)}")
