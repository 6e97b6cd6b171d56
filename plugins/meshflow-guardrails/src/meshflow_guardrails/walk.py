"""Going through a value at any depth: all its text, and a copy with its text changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from meshflow_guardrails.objects import fields_of, with_fields

_NESTED = (Mapping, list, tuple, set, frozenset)
_LEAVES = frozenset({int, float, bool, type(None)})


class WalkError(Exception):
    """The value is more than may be looked at; ``cause`` is the last part of the denial's code."""

    def __init__(self, cause: str, reason: str) -> None:
        self.cause = cause
        self.reason = reason
        super().__init__(reason)


class Limits:
    """What one value may hold."""

    def __init__(self, max_chars: int, max_nodes: int, max_depth: int) -> None:
        self.max_chars = max_chars
        self.max_nodes = max_nodes
        self.max_depth = max_depth


def texts_of(value: Any, limits: Limits) -> list[str]:
    """Return every text in the value, keys and readable bytes too, in order; raise WalkError beyond the limits."""
    if type(value) is str:  # the usual case
        if len(value) > limits.max_chars:
            raise WalkError("too_long", f"{len(value)} characters, where {limits.max_chars} are let through")
        return [value]
    found: list[str] = []
    chars = nodes = 0
    # Each entry is an iterator over one level, so that order is kept and depth is the stack's height.
    stack = [iter((value,))]
    while stack:
        for item in stack[-1]:
            nodes += 1
            text = _text(item, found)
            nested = None if text or type(item) in _LEAVES else _nested(item)
            chars += text
            if nested is not None:
                if len(stack) > limits.max_depth:
                    raise WalkError("too_deep", f"values are nested deeper than {limits.max_depth}")
                stack.append(nested)
                break
            if nodes > limits.max_nodes or chars > limits.max_chars:
                raise WalkError("too_long", f"more than {limits.max_chars} characters or {limits.max_nodes} values")
        else:
            stack.pop()
    return found


def _nested(item: Any) -> Iterator[Any] | None:
    """Return an iterator over what a value holds, whatever a subclass shows of it; None for a value that is whole."""
    if isinstance(item, Mapping):
        return (part for pair in _pairs(item) for part in pair)
    if isinstance(item, (list, tuple, set, frozenset)):
        return _members(item)
    fields = fields_of(item)
    return None if fields is None else (part for pair in fields.items() for part in pair)


def _pairs(mapping: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return dict.items(mapping) if isinstance(mapping, dict) else mapping.items()


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        return list.__iter__(value)
    if isinstance(value, tuple):
        return tuple.__iter__(value)
    return set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value)


def _text(item: Any, found: list[str]) -> int:
    if isinstance(item, str):
        text = item if type(item) is str else str.__str__(item)
        found.append(text)
        return len(text)
    if isinstance(item, (bytes, bytearray)):
        raw = bytes(memoryview(item))
        try:
            found.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            # Counted all the same; what is no text cannot be read as an instruction.
            return len(raw)
        return len(raw)
    return 0


def settled(value: Any, limits: Limits) -> Any:
    """Return the value with a dict in place of each other mapping, which might show something else next time.

    What is looked at must be what runs. The same object where there is none; WalkError beyond the limits.
    """
    if type(value) in _SETTLED:
        return value
    return _settled(value, limits, [limits.max_nodes], 0)


_SETTLED = _LEAVES | {str, bytes}


def _settled(value: Any, limits: Limits, left: list[int], depth: int) -> Any:
    if not isinstance(value, (Mapping, list, tuple)):
        return value
    if depth >= limits.max_depth:
        raise WalkError("too_deep", f"values are nested deeper than {limits.max_depth}")
    # One value more than is let through is enough to refuse: a mapping of somebody's making may never end.
    keys: list[Any] = []
    if isinstance(value, Mapping):
        pairs = list(islice(_pairs(value), left[0] + 1))
        keys, items = [key for key, _ in pairs], [item for _, item in pairs]
    else:
        items = list(islice(_members(value), left[0] + 1))
    left[0] -= len(items)
    if left[0] < 0:
        raise WalkError("too_long", f"more than {limits.max_nodes} values")
    new = [item if type(item) in _SETTLED else _settled(item, limits, left, depth + 1) for item in items]
    same = all(one is other for one, other in zip(new, items, strict=True))
    if isinstance(value, Mapping):
        return value if same and isinstance(value, dict) else dict(zip(keys, new, strict=True))
    return value if same else _like(value, new)


def _like(value: Any, items: list[Any]) -> Any:
    """Return the items as the kind of collection that the value is."""
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(items)
    return next(kind(items) for kind in (list, tuple, frozenset, set) if isinstance(value, kind))


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """Return the value with each text changed; the same object where nothing changes. Call ``texts_of`` before."""
    if isinstance(value, str):
        text = value if type(value) is str else str.__str__(value)
        new = change(text)
        return value if new == text else new
    if isinstance(value, (bytes, bytearray)):
        return _changed_bytes(value, change)
    if isinstance(value, Mapping):
        return _changed_mapping(value, change)
    if isinstance(value, (list, tuple, set, frozenset)):
        members = list(_members(value))
        items = [changed(item, change) for item in members]
        if all(new is old for new, old in zip(items, members, strict=True)):
            return value
        return _like(value, items)
    fields = None if type(value) in _LEAVES else fields_of(value)
    if fields is None:
        return value
    new_fields = _changed_mapping(fields, change)
    return value if new_fields is fields else with_fields(value, new_fields)


def _changed_bytes(value: bytes | bytearray, change: Callable[[str], str]) -> Any:
    try:
        text = bytes(memoryview(value)).decode("utf-8")
    except UnicodeDecodeError:
        return value
    new = change(text)
    return value if new == text else type(value)(new.encode("utf-8"))


def _changed_mapping(value: Mapping[Any, Any], change: Callable[[str], str]) -> Any:
    out: dict[Any, Any] = {}
    same = True
    for key, item in _pairs(value):
        new_key = changed(key, change) if isinstance(key, str) else key
        new_item = changed(item, change)
        if new_key is not key:
            number, base = 1, new_key
            while new_key in out or new_key in value:
                number += 1
                new_key = f"{base}#{number}"
        same = same and new_key is key and new_item is item
        out[new_key] = new_item
    return value if same else out
