"""The two encodings of the ledger: canonical bytes for what is hashed, opaque bytes for what is committed to.

Canonical bytes are RFC 8785 (JCS) in a strict profile: no floats, integers within 2^53-1, keys of the basic
multilingual plane, valid Unicode, at most 64 containers deep. Inside that profile ``orjson`` with sorted keys writes
the same bytes as RFC 8785, and what is outside is refused by name, since orjson alone would turn NaN into null.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from types import MappingProxyType, NoneType
from typing import Any, NoReturn

import orjson

from meshflow.errors import EncodingError

MAX_DEPTH = 64
MAX_INTEGER = 2**53 - 1
UNENCODABLE = "meshflow:unencodable"

_MAX_NODES = 1_000_000
_PAYLOAD_DEPTH = 200
_LEAVES = frozenset({str, int, bool, NoneType})
_STRICT = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)
# A dataclass is not written out: its fields have not passed the scan that redacts what a ledger keeps.
_OPAQUE = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


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


def payload_bytes(value: Any) -> bytes:
    """Return the opaque bytes of a payload; always succeeds.

    Finite floats are legal. What JSON cannot say becomes ``{"meshflow:unencodable": {"type": ...}}`` in its place:
    bytes and broken text with length and SHA-256, numbers that are not finite by name, all else by type alone.
    """
    return settle_payload(value, quick_payload(value))


def quick_payload(value: Any) -> bytes | None:
    """Return orjson's bytes, in which NaN may have become null; None where orjson gives up."""
    try:
        return orjson.dumps(value, default=_default, option=_OPAQUE)
    except orjson.JSONEncodeError:
        return None


def settle_payload(value: Any, quick: bytes | None) -> bytes:
    """Return the final bytes, given what ``quick_payload`` returned for the same value."""
    if quick is not None and (b"null" not in quick or _all_finite(value)):
        return quick
    return orjson.dumps(_clean(value, 0, [_MAX_NODES]), option=_OPAQUE)


def payload_value(data: bytes) -> Any:
    """Return what a payload's bytes say."""
    return orjson.loads(data)


def _typed(value: Any, /, **more: Any) -> dict[str, Any]:
    return {UNENCODABLE: {"type": type_name(value), **more}}


def _default(value: Any) -> Any:
    """Stand in for what orjson does not know."""
    if isinstance(value, MappingProxyType):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        plain = float(value)
        return plain if math.isfinite(plain) else _typed(value, value=str(plain))
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return _typed(value, length=len(data), sha256=hashlib.sha256(data).hexdigest())
    if isinstance(value, (set, frozenset)):
        return _typed(value, length=len(value))
    return _typed(value)


def _all_finite(value: Any) -> bool:
    """Say whether no NaN or infinity hides among the nulls; the value is known to be finite in depth."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return False
        elif isinstance(item, (dict, MappingProxyType)):
            stack.extend(child for child in item.values() if type(child) not in _LEAVES)
        elif isinstance(item, (list, tuple)):
            stack.extend(child for child in item if type(child) not in _LEAVES)
        elif isinstance(item, Enum):
            stack.append(item.value)
    return True


def _clean(value: Any, depth: int, budget: list[int]) -> Any:
    """Return a copy that orjson can write, with typed digests where it could not."""
    budget[0] -= 1
    if budget[0] < 0:
        return _typed(value, reason="size")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _clean(value.value, depth + 1, budget) if depth < _PAYLOAD_DEPTH else _typed(value, reason="depth")
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else _typed(value, bits=value.bit_length())
    if isinstance(value, float):
        return _default(value)
    if isinstance(value, (dict, MappingProxyType, list, tuple)):
        if depth >= _PAYLOAD_DEPTH:
            return _typed(value, reason="depth")
        if isinstance(value, (list, tuple)):
            return [_clean(child, depth + 1, budget) for child in value]
        return _clean_members(value, depth, budget)
    try:
        return orjson.loads(orjson.dumps(value, default=_default, option=_OPAQUE))
    except orjson.JSONEncodeError:
        return _typed(value)


def _clean_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogatepass")
        return _typed(value, length=len(value), sha256=hashlib.sha256(data).hexdigest())
    return str(value)


def _clean_members(value: Mapping[Any, Any], depth: int, budget: list[int]) -> Any:
    """Return a mapping with text keys; numbers become text as in ``json``, and keys that would collide are refused."""
    clean: dict[str, Any] = {}
    for key, child in value.items():
        name = _key(key)
        if name is None or name in clean:
            return _typed(value, length=len(value), reason="keys")
        clean[name] = _clean(child, depth + 1, budget)
    return clean


def _key(key: Any) -> str | None:
    if isinstance(key, str):
        return str(key) if isinstance(_clean_text(key), str) else None
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if type(key) is int and key.bit_length() <= 64:
        return str(key)
    return None
