"""The one place that asks for pydantic-ai, so that its absence is one clear error."""

from __future__ import annotations

from importlib.util import find_spec

from meshflow.errors import ConfigError


def need_pydantic_ai() -> None:
    """Raise ConfigError when the library behind agents is not installed."""
    if find_spec("pydantic_ai") is None:
        raise ConfigError('an Agent needs pydantic-ai: pip install "meshflow[agent]"', where="Agent")
