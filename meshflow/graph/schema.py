"""Read a state's keys from its class, and make what a node gets from the state."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, Required, get_args, get_origin, get_type_hints

from meshflow.graph.errors import InvalidGraphError
from meshflow.graph.markers import Command
from meshflow.graph.reducers import Channel

_WRAPPERS: set[Any] = {Required, NotRequired}
_CONCRETE: dict[Any, Any] = {
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}
_MISSING: Any = object()


class Schema:
    """The keys of a state class, and how a node that takes it is handed the state.

    A TypedDict is handed over as a dict; a dataclass or pydantic model is made anew from the values for each node.
    """

    __slots__ = ("channels", "keys", "make", "type")

    def __init__(self, kind: Any) -> None:
        self.type = kind
        self.channels = {name: _channel(name, hint) for name, hint in _hints(kind).items()}
        self.keys = tuple(self.channels)
        self.make: Callable[..., Any] | None = kind if _is_model(kind) or dataclasses.is_dataclass(kind) else None

    def read(self, values: Mapping[str, Any], *, every: bool) -> Any:
        """Return what a node gets; ``every`` says that the state has no other keys than these."""
        if every and self.make is None:
            return dict(values)
        given = {key: values[key] for key in self.keys if key in values}
        return given if self.make is None else self.make(**given)


def _hints(kind: Any) -> dict[str, Any]:
    if not isinstance(kind, type) or not getattr(kind, "__annotations__", None):
        raise InvalidGraphError(
            "a state is described by a TypedDict, a dataclass or a pydantic model with at least one key, not by "
            f"{kind!r}"
        )
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise InvalidGraphError(
            f"the annotations of {kind.__qualname__} cannot be read: {error}; define what they name in the module "
            "itself"
        ) from None
    return {name: hint for name, hint in hints.items() if not _hidden(kind, name, hint)}


def _hidden(kind: Any, name: str, hint: Any) -> bool:
    if _is_model(kind):
        return name not in kind.model_fields
    return name == "__slots__" or "ClassVar" in str(hint)


def _channel(name: str, hint: Any) -> Channel:
    metadata: tuple[Any, ...] = ()
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, *extras = get_args(hint)
            metadata = (*extras, *metadata)
        elif origin in _WRAPPERS:
            hint = get_args(hint)[0]
        else:
            break
    origin = get_origin(hint) or hint
    reducer = metadata[-1] if metadata and callable(metadata[-1]) and not isinstance(metadata[-1], type) else None
    return Channel(name, reducer, _CONCRETE.get(origin, origin))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_fields") and hasattr(kind, "model_validate")


def as_updates(value: Any) -> Mapping[str, Any] | None:
    """Return the keys that an instance of a state class sets; None for anything else.

    Of a dataclass all; of a pydantic model all but those that are None by default and were not set. As in LangGraph.
    """
    if _is_model(type(value)):
        return {
            name: getattr(value, name)
            for name, one in type(value).model_fields.items()
            if name in value.model_fields_set or one.default is not None or getattr(value, name) is not None
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return None


def first_parameter(function: Callable[..., Any]) -> Any:
    """Return the class that annotates the first parameter of a node or router, if it describes a state; else None."""
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        hints = get_type_hints(called)
        parameters = list(inspect.signature(called).parameters)
    except (NameError, TypeError, ValueError):
        return None
    hint = hints.get(parameters[0]) if parameters else None
    return hint if isinstance(hint, type) and getattr(hint, "__annotations__", None) else None


def named_targets(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """Return the nodes that a return annotation names: ``Literal["a", "b"]`` or ``Command[Literal["a", "b"]]``."""
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        hint = get_type_hints(called).get("return")
    except (NameError, TypeError, AttributeError):
        return None
    return _literals(hint)


def _literals(hint: Any) -> tuple[str, ...] | None:
    if get_origin(hint) is Command:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return tuple(one for one in get_args(hint) if isinstance(one, str))
    return None


def injected(function: Callable[..., Any], known: Sequence[str]) -> tuple[str, ...]:
    """Return the parameters behind the first that a graph fills in by their name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):  # a function written in C may have no signature
        return ()
    return tuple(one.name for one in parameters if one.name in known and one.kind is not one.VAR_POSITIONAL)
