"""The encoding of what is hashed: RFC 8785 in a strict profile.

Canonical bytes are RFC 8785 (JCS) in a strict profile: no floats, integers within 2^53-1, keys of the basic
multilingual plane, valid Unicode, at most 64 containers deep. Inside that profile ``orjson`` with sorted keys writes
the same bytes as RFC 8785, and what is outside is refused by name, since orjson alone would turn NaN into null.
"""

from __future__ import annotations

import math
from types import NoneType
from typing import Any, NoReturn

import orjson

from meshflow.errors import EncodingError

MAX_DEPTH = 64
MAX_INTEGER = 2**53 - 1

_MAX_NODES = 1_000_000
_LEAVES = frozenset({str, int, bool, NoneType})
_STRICT = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def canonical_bytes(value: Any, *, plain: bool = False) -> bytes:
    """Return the canonical bytes; raise EncodingError, naming the field, for a value outside the profile.

    ``plain`` says that the caller knows all types, keys and the depth to be inside it.
    """
    if plain or _sound(value):
        try:
            return orjson.dumps(value, option=_STRICT)
        except orjson.JSONEncodeError:
            pass
    _refuse(value, "", 0, [_MAX_NODES])
    raise EncodingError("has no canonical form")


def _sound(value: Any) -> bool:
    """Say whether all types, keys and the depth are inside the profile; level by level, so that a cycle ends."""
    level, nodes = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                for key, child in item.items():
                    if type(key) is not str or not (key.isascii() or max(key) <= "\uffff"):
                        return False
                    if type(child) not in _LEAVES:
                        below.append(child)
            elif kind is list or kind is tuple:
                below.extend([child for child in item if type(child) not in _LEAVES])
            elif kind not in _LEAVES:
                return False
        if not below:
            return True
        nodes += len(below)
        if nodes > _MAX_NODES:
            return False
        level = below
    return False


def _refuse(value: Any, path: str, depth: int, budget: list[int]) -> None:
    """Raise EncodingError at the first value outside the profile."""
    budget[0] -= 1
    if budget[0] < 0:
        raise EncodingError(f"more than {_MAX_NODES} values", path=path)
    kind = type(value)
    if kind is str:
        _refuse_text(value, path)
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise EncodingError("an integer beyond 2^53-1; other readers would round it", path=path)
    elif kind is float:
        what = "a float; use an integer in a smaller unit" if math.isfinite(value) else "not a finite number"
        raise EncodingError(what, path=path)
    elif kind is dict or kind is list or kind is tuple:
        if depth >= MAX_DEPTH:
            raise EncodingError(f"a cycle, or more than {MAX_DEPTH} containers deep", path=path)
        if kind is dict:
            _refuse_members(value, path, depth, budget)
        else:
            for number, child in enumerate(value):
                _refuse(child, f"{path}[{number}]", depth + 1, budget)
    elif kind is not bool and value is not None:
        _refuse_type(value, path)


def _refuse_members(value: dict[Any, Any], path: str, depth: int, budget: list[int]) -> None:
    for key, child in value.items():
        if type(key) is not str:
            raise EncodingError(f"a key of type {type_name(key)}; keys are strings", path=path)
        _refuse_text(key, f"{path} key" if path else "key")
        if key and max(key) > "\uffff":
            raise EncodingError("a key outside the basic multilingual plane, where sort orders differ", path=path)
        _refuse(child, f"{path}.{key}" if path else key, depth + 1, budget)


def _refuse_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise EncodingError("a lone surrogate, which is not valid Unicode", path=path) from None


def _refuse_type(value: Any, path: str) -> NoReturn:
    raise EncodingError(f"a value of type {type_name(value)}, which is not a JSON type", path=path)


def type_name(value: Any) -> str:
    """Return ``module.Class`` of a value in plain ASCII, at most 200 characters."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".encode("ascii", "replace").decode()[:200]
