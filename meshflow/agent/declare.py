"""What tools declare in code, carried into the configuration that the risk, taint and tools plugins read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meshflow.agent.traits import ToolTraits
from meshflow.config.load import load_config
from meshflow.config.models import Config
from meshflow.errors import ConfigError


def runtime_config(source: Any, tools: Mapping[str, Callable[..., Any]], traits: Mapping[str, ToolTraits]) -> Any:
    """Return a configuration in which an agent's tools are declared, with the schemas of their arguments.

    What a mapping says of a tool itself stands. A file is the operator's: nothing is added to it, and a tool that it
    does not declare is refused when it declares others.
    """
    if isinstance(source, (str, Path)):
        source = load_config(source)
    if isinstance(source, Config):
        undeclared(source, traits)
        return source
    if not tools:
        return source
    declared = {name: {"schema": _schema(function), **traits[name].declaration()} for name, function in tools.items()}
    given: dict[str, Any] = dict(source or {})
    section = dict(given.get("tools") or {})
    own = dict(section.get("tools") or {})
    for name, declaration in declared.items():
        own[name] = {**declaration, **(own.get(name) or {})}
    return {**given, "tools": {**section, "tools": own}}


def undeclared(config: Config, traits: Mapping[str, ToolTraits]) -> None:
    """Raise ConfigError where code declares clearances of a tool that the configuration in force does not know.

    A risk travels with each call and can only raise; clearances are enforced by what the configuration says.
    """
    section = config.sections.get("tools") or {}
    known = section.get("tools") or {}
    for name, one in traits.items():
        declaration = one.declaration()
        clearances = {key: declaration[key] for key in ("accepts", "emits") if key in declaration}
        if clearances and name not in known:
            raise ConfigError(
                f"tool {name!r} declares {clearances} in code, and the runtime's configuration does not have it; add "
                f"it under tools.tools.{name}",
                where=config.name,
            )


def _schema(function: Callable[..., Any]) -> dict[str, Any]:
    from pydantic_ai import Tool

    return dict(Tool(function).function_schema.json_schema)
