"""What an application says of a tool in code: how risky it is, and what may reach it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from meshflow.errors import ConfigError
from meshflow.facts import Confidentiality, Origin, RiskTier

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__meshflow_tool__"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTraits:
    """The declaration of one tool; None leaves it to the configuration and its defaults."""

    name: str | None = None
    risk: str | None = None
    idempotent: bool | None = None
    max_origin: str | None = None
    max_confidentiality: str | None = None
    emits_origin: str | None = None
    emits_confidentiality: str | None = None

    def __post_init__(self) -> None:
        for name, known in _LEVELS.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(f"{value!r} is none of {list(known)}", where=f"tool({name}=)")

    def declaration(self) -> dict[str, Any]:
        """Return what meshflow.yaml would say under tools.tools."""
        accepts = _set(max_origin=self.max_origin, max_confidentiality=self.max_confidentiality)
        emits = _set(origin=self.emits_origin, confidentiality=self.emits_confidentiality)
        return _set(risk=self.risk, idempotent=self.idempotent, accepts=accepts or None, emits=emits or None)


_LEVELS: Mapping[str, tuple[str, ...]] = {
    "risk": tuple(tier.label for tier in RiskTier),
    "max_origin": tuple(one.name.lower() for one in Origin),
    "emits_origin": tuple(one.name.lower() for one in Origin),
    "max_confidentiality": tuple(one.name.lower() for one in Confidentiality),
    "emits_confidentiality": tuple(one.name.lower() for one in Confidentiality),
}


def _set(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(function: None = None, /, **traits: Any) -> Callable[[F], F]: ...
def tool(function: F | None = None, /, **traits: Any) -> F | Callable[[F], F]:
    """Declare a function as a tool: ``@tool(risk="irreversible", max_origin="user")``.

    Options: name, risk, idempotent, max_origin, max_confidentiality, emits_origin, emits_confidentiality, with the
    values that ``tools`` in meshflow.yaml takes. The function itself stays as it is.
    """
    declared = ToolTraits(**traits)

    def mark(marked: F) -> F:
        setattr(marked, _ATTRIBUTE, declared)
        return marked

    return mark if function is None else mark(function)


def traits_of(function: Callable[..., Any]) -> ToolTraits:
    """Return what was declared of a function; nothing where it was not."""
    declared = getattr(function, _ATTRIBUTE, None)
    return declared if isinstance(declared, ToolTraits) else ToolTraits()


def name_of(function: Callable[..., Any]) -> str:
    """Return the name under which a model calls a function."""
    return traits_of(function).name or str(getattr(function, "__name__", "tool"))
