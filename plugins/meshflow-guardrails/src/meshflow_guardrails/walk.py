"""Going through a value at any depth: all its text, and a copy with its text changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_NESTED = (Mapping, list, tuple, set, frozenset)


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
    if isinstance(value, str):  # the usual case
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
            if text:
                chars += text
            elif isinstance(item, _NESTED):
                if len(stack) > limits.max_depth:
                    raise WalkError("too_deep", f"values are nested deeper than {limits.max_depth}")
                stack.append(iter(_flat(item)))
                break
            if nodes > limits.max_nodes or chars > limits.max_chars:
                raise WalkError("too_long", f"more than {limits.max_chars} characters or {limits.max_nodes} values")
        else:
            stack.pop()
    return found


def _flat(item: Any) -> Any:
    if isinstance(item, Mapping):
        return (part for pair in item.items() for part in pair)
    return item


def _text(item: Any, found: list[str]) -> int:
    if isinstance(item, str):
        found.append(item)
        return len(item)
    if isinstance(item, (bytes, bytearray)):
        try:
            found.append(item.decode("utf-8"))
        except UnicodeDecodeError:
            # Counted all the same; what is no text cannot be read as an instruction.
            return len(item)
        return len(item)
    return 0


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """Return the value with each text changed; the same object where nothing changes. Call ``texts_of`` before."""
    if isinstance(value, str):
        new = change(value)
        return value if new == value else new
    if isinstance(value, (bytes, bytearray)):
        return _changed_bytes(value, change)
    if isinstance(value, Mapping):
        return _changed_mapping(value, change)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [changed(item, change) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(items)
        return next(kind(items) for kind in (list, tuple, frozenset, set) if isinstance(value, kind))
    return value


def _changed_bytes(value: bytes | bytearray, change: Callable[[str], str]) -> Any:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return value
    new = change(text)
    return value if new == text else type(value)(new.encode("utf-8"))


def _changed_mapping(value: Mapping[Any, Any], change: Callable[[str], str]) -> Any:
    out: dict[Any, Any] = {}
    same = True
    for key, item in value.items():
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
