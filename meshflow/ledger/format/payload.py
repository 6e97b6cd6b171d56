"""The encoding of what is committed to: opaque JSON, in which what JSON cannot say has a typed digest in its place."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from types import MappingProxyType, NoneType
from typing import Any

import orjson

from meshflow.ledger.format.canonical import type_name

UNENCODABLE = "meshflow:unencodable"

_MAX_NODES = 1_000_000
_MAX_DEPTH = 200
_SLICE = 1 << 20
"""Of a long text, so many characters are encoded at a time: each call holds the interpreter's lock."""
_LEAVES = frozenset({str, int, bool, NoneType})
# A dataclass is not written out: its fields have not passed the scan that redacts what a ledger keeps.
_OPAQUE = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


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
    speller = _Speller()
    speller.spell(value, 0)
    return bytes(speller.out)


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
            stack += [child for child in item.values() if type(child) not in _LEAVES]
        elif isinstance(item, (list, tuple)):
            stack += [child for child in item if type(child) not in _LEAVES]
        elif isinstance(item, Enum):
            stack.append(item.value)
    return True


class _Speller:
    """Writes a value piece by piece, with typed digests where orjson would have failed or changed it.

    No cleaned copy is made for orjson to write: to walk a million new lists in a garbage collection, and to free them,
    would hold the interpreter's lock, and with it every event loop, for 50 ms and more.
    """

    __slots__ = ("_left", "out")

    def __init__(self) -> None:
        self._left = _MAX_NODES
        self.out = bytearray()

    def spell(self, value: Any, depth: int) -> None:
        """Write a value."""
        self._left -= 1
        if self._left < 0:
            self._put(_typed(value, reason="size"))
        elif value is None or isinstance(value, bool):
            self._put(value)
        elif isinstance(value, Enum):
            if depth < _MAX_DEPTH:
                self.spell(value.value, depth + 1)
            else:
                self._put(_typed(value, reason="depth"))
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, int):
            self._put(int(value) if -(2**63) <= value < 2**64 else _typed(value, bits=value.bit_length()))
        elif isinstance(value, float):
            self._put(_default(value))
        elif isinstance(value, (dict, MappingProxyType, list, tuple)):
            self._container(value, depth)
        else:
            quick = quick_payload(value)
            self.out += quick if quick is not None else _dumped(_typed(value))

    def _put(self, value: Any) -> None:
        self.out += _dumped(value)

    def _text(self, value: str) -> None:
        start = len(self.out)
        self.out += b'"'
        try:
            for at in range(0, len(value), _SLICE):
                self.out += _dumped(str(value[at : at + _SLICE]))[1:-1]
        except orjson.JSONEncodeError:
            del self.out[start:]
            self._put(_broken(value))
        else:
            self.out += b'"'

    def _container(self, value: Any, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            self._put(_typed(value, reason="depth"))
        elif isinstance(value, (list, tuple)):
            self.out += b"["
            for number, child in enumerate(value):
                if number:
                    self.out += b","
                self.spell(child, depth + 1)
            self.out += b"]"
        else:
            self._members(value, depth)

    def _members(self, value: Mapping[Any, Any], depth: int) -> None:
        """Write a mapping with text keys; numbers become text as in ``json``, and colliding keys a typed digest."""
        names: dict[str, Any] = {}
        for key, child in value.items():
            name = _key(key)
            if name is None or name in names:
                self._put(_typed(value, length=len(value), reason="keys"))
                return
            names[name] = child
        separator = b"{"
        for name in sorted(names):
            self.out += separator
            self._text(name)
            self.out += b":"
            self.spell(names[name], depth + 1)
            separator = b","
        self.out += b"}" if names else b"{}"


def _dumped(value: Any) -> bytes:
    return orjson.dumps(value, option=_OPAQUE)


def _broken(value: str) -> dict[str, Any]:
    """Return what stands for text with lone surrogates."""
    digest = hashlib.sha256()
    for at in range(0, len(value), _SLICE):
        digest.update(value[at : at + _SLICE].encode("utf-8", "surrogatepass"))
    return _typed(value, length=len(value), sha256=digest.hexdigest())


def _key(key: Any) -> str | None:
    if isinstance(key, str):
        try:
            key.encode()
        except UnicodeEncodeError:
            return None
        return str(key)
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if type(key) is int and key.bit_length() <= 64:
        return str(key)
    return None
