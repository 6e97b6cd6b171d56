"""How values that are written to one key of the state are put together."""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from meshflow.graph.copying import copied
from meshflow.graph.errors import InvalidGraphError, InvalidUpdateError
from meshflow.graph.markers import Overwrite

Reducer = Callable[[Any, Any], Any]
MISSING: Final[Any] = object()


def add(current: Any, new: Any) -> Any:
    """Put the new value behind the old: ``current + new``."""
    return current + new


def last(current: Any, new: Any) -> Any:
    """Keep the newest value; unlike a key without a reducer, also where several nodes write it in one superstep."""
    return new


def first(current: Any, new: Any) -> Any:
    """Keep the value that was written first."""
    return current


_KEEPS_NOTHING_TO_BEGIN_WITH = (first, last)


class Channel:
    """One key of the state: its reducer, and what it holds before anybody has written it."""

    __slots__ = ("appends", "name", "origin", "reducer")

    def __init__(self, name: str, reducer: Reducer | None = None, origin: Any = None) -> None:
        self.name = name
        self.reducer = reducer
        self.origin = origin
        self.appends = reducer is add or reducer is operator.add
        if reducer is not None:
            _check_reducer(name, reducer)

    def start(self) -> Any:
        """Return the value before the first write: the type's own empty value for a reduced key, else MISSING."""
        if self.reducer is None or self.reducer in _KEEPS_NOTHING_TO_BEGIN_WITH or not callable(self.origin):
            return MISSING
        try:
            return self.origin()
        except Exception:  # a type's constructor may ask for anything; then the first write is the first value
            return MISSING

    def fold(self, current: Any, written: Sequence[Any]) -> Any:
        """Return the value after one superstep's writes, in order; ``current`` stays as it is."""
        overwritten = False
        for value in written:
            if type(value) is Overwrite:
                if overwritten:
                    raise InvalidUpdateError(
                        f"key {self.name!r} was given two Overwrites in one superstep", key=self.name
                    )
                current, overwritten = value.value, True
            elif overwritten:
                continue
            elif current is MISSING or self.reducer is None:
                current = value
            else:
                current = self._reduced(current, value)
        return current

    def _reduced(self, current: Any, value: Any) -> Any:
        try:
            return self.reducer(current, value)  # type: ignore[misc]
        except Exception as error:
            error.add_note(f"in the reducer of the state's key {self.name!r}")
            raise

    def write(self, values: dict[str, Any], value: Any) -> None:
        """Write one value into the state that the graph itself holds."""
        name = self.name
        if self.reducer is None and type(value) is not Overwrite:
            values[name] = value
            return
        current = values.get(name, MISSING)
        if self.appends and type(current) is list and type(value) is list and sys.getrefcount(current) <= _ALONE:
            current.extend(value)
        else:
            values[name] = self.fold(current, (value,))


def _count_when_alone() -> int:
    """Return what ``write`` counts for a list that only the state holds.

    Such a list can be extended in place, so that a growing history costs what is added and not what is there. Whoever
    else holds it, a node, another key, an event, adds to the count, and then a new list is made.
    """
    values: dict[str, Any] = {"key": [0]}
    current = values.get("key", MISSING)
    return sys.getrefcount(current)


_ALONE = _count_when_alone() if sys.implementation.name == "cpython" else -1


def _check_reducer(name: str, reducer: Reducer) -> None:
    if reducer in (add, last, first, operator.add):
        return
    try:
        parameters = inspect.signature(reducer).parameters.values()
    except (TypeError, ValueError):  # a function written in C may have no signature
        return
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in positional if one.default is one.empty]
    takes_any = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    if len(needed) > 2 or (len(positional) < 2 and not takes_any):
        raise InvalidGraphError(
            f"the reducer of the state's key {name!r} must take two arguments, the value so far and the new one; "
            f"{getattr(reducer, '__name__', reducer)!r} does not"
        )


def started(channels: Sequence[Channel]) -> dict[str, Any]:
    """Return the state before any input."""
    begun = {channel.name: channel.start() for channel in channels}
    return {name: value for name, value in begun.items() if value is not MISSING}


def overlaid(
    values: dict[str, Any], channels: dict[str, Channel], updates: Sequence[tuple[str, Any]]
) -> dict[str, Any]:
    """Return the state as it will be for a router: with one node's writes, which are not applied yet."""
    fresh = dict(values)
    written: dict[str, list[Any]] = {}
    for key, value in updates:
        written.setdefault(key, []).append(value)
    for key, several in written.items():
        fresh[key] = channels[key].fold(values.get(key, MISSING), several)
    return fresh


def apply_all(
    values: dict[str, Any], channels: dict[str, Channel], written: Sequence[tuple[str, Sequence[tuple[str, Any]]]]
) -> None:
    """Write what several nodes of one superstep gave, in the order of the nodes.

    Two nodes that write one key without a reducer contradict each other.
    """
    grouped: dict[str, list[Any]] = {}
    writers: dict[str, str] = {}
    for node, updates in written:
        for key, value in updates:
            if key in writers and channels[key].reducer is None and type(value) is not Overwrite:
                raise InvalidUpdateError(
                    f"nodes {writers[key]!r} and {node!r} wrote the state's key {key!r} in one superstep; say how the "
                    f"values go together, as in {key}: Annotated[list[str], add]",
                    node=node,
                    key=key,
                )
            writers[key] = node
            grouped.setdefault(key, []).append(value)
    for key, several in grouped.items():
        channel = channels[key]
        if len(several) == 1 or (channel.appends and not any(type(value) is Overwrite for value in several)):
            for value in several:
                channel.write(values, value)
        else:
            values[key] = channel.fold(values.get(key, MISSING), several)


def snapshot(values: dict[str, Any]) -> dict[str, Any]:
    """Return a copy for somebody outside of the graph."""
    memo: dict[int, Any] = {}
    return {key: copied(value, memo) for key, value in values.items()}
