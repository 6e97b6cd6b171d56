"""Typed JSON: Python values as bytes that come back as the same types, and never as code.

Plain JSON values are plain JSON. What JSON lacks is an object with one key that begins with ``$``:
``{"$tuple": [...]}``, ``{"$bytes": "base64"}``, ``{"$model": ["name", {...}]}``. A dict that has such a key of its own,
or keys that are no strings, is written as ``{"$dict": [[key, value], ...]}``, so that no value passes for a tag.

A time zone comes back as its offset from UTC. Models (dataclasses, pydantic models, enums) are read back only if their
class is among those that the reader names, or derived from one: bytes from a store never choose what is imported.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import orjson

from meshflow.errors import EncodingError

_PLAIN = frozenset({type(None), bool, str, int})
_EMPTY: Mapping[str, type] = {}
_INTEGERS = range(-(2**63), 2**64)
_MAX_DEPTH = 200
_OF_CLASSES = (b'{"$model":', b'{"$data":', b'{"$enum":')  # inside of a text the quotes are escaped


def _clock_text(value: datetime | time) -> str:
    """Return ISO 8601, with a ~ behind the second of two times that a clock shows when it is put back (``fold``)."""
    return value.isoformat() + ("~" if value.fold else "")


def _from_clock_text(kind: Any, text: str) -> Any:
    value = kind.fromisoformat(text.removesuffix("~"))
    return value.replace(fold=1) if text.endswith("~") else value


_BY_TEXT: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: ("$datetime", _clock_text, lambda text: _from_clock_text(datetime, text)),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", _clock_text, lambda text: _from_clock_text(time, text)),
    Decimal: ("$decimal", str, Decimal),
    Fraction: ("$fraction", str, Fraction),
    UUID: ("$uuid", str, UUID),
    complex: ("$complex", repr, complex),
}
_FROM_TEXT = {tag: read for tag, _, read in _BY_TEXT.values()}


def type_name(kind: type) -> str:
    """Return the name under which a class is written."""
    return f"{kind.__module__}.{kind.__qualname__}"


def encode(value: Any) -> bytes:
    """Return the value as bytes; EncodingError, with the path of what is at fault, for a value without a form."""
    try:
        written = _write(value, 0)
    except _Unencodable as problem:
        raise EncodingError(problem.why, path="".join(reversed(problem.path)).lstrip(".")) from None
    try:
        return orjson.dumps(written)
    except orjson.JSONEncodeError:  # lone surrogates and whole numbers beyond 64 bits, too rare to look for each time
        return orjson.dumps(_mended(written))


def encode_readable(value: Any, types: Mapping[str, type]) -> bytes:
    """Return the value as bytes; EncodingError too if ``types`` would not read it back: nothing is kept in vain."""
    data = encode(value)
    if any(tag in data for tag in _OF_CLASSES):
        decode(data, types)
    return data


def decode(data: bytes, types: Mapping[str, type] = _EMPTY) -> Any:
    """Return the value; EncodingError for bytes that are not typed JSON or that name a class not among ``types``."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EncodingError(f"not typed JSON: {error}") from None
    try:
        return _read(raw, types)
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError, RecursionError) as error:
        raise EncodingError(f"cannot read a stored value: {error}") from error


class _Unencodable(Exception):
    def __init__(self, why: str) -> None:
        self.why = why
        self.path: list[str] = []


def _write(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if depth > _MAX_DEPTH:
        raise _Unencodable(f"nested deeper than {_MAX_DEPTH} levels, or within itself")
    if kind is list:
        return _items(value, depth)
    if kind is dict:
        return _mapping(value, depth)
    if kind in _BY_TEXT:
        tag, write, _ = _BY_TEXT[kind]
        return {tag: write(value)}
    return _tagged(kind, value, depth)


def _mended(written: Any) -> Any:
    """Return what was written with tags for the texts and whole numbers that JSON cannot hold."""
    kind = type(written)
    if kind is str:
        try:
            written.encode()
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8
            return {"$str": base64.b64encode(written.encode("utf-8", "surrogatepass")).decode()}
    elif kind is int and written not in _INTEGERS:
        return {"$int": hex(written)}
    elif kind is list:
        return [_mended(one) for one in written]
    elif kind is dict:
        pairs = [(_mended(key), _mended(one)) for key, one in written.items()]
        return dict(pairs) if all(type(key) is str for key, _ in pairs) else {"$dict": [list(pair) for pair in pairs]}
    return written


def _items(value: Collection[Any], depth: int) -> list[Any]:
    if _PLAIN.issuperset(map(type, value)):
        return list(value)
    written = []
    for index, one in enumerate(value):
        try:
            written.append(_write(one, depth + 1))
        except _Unencodable as problem:
            problem.path.append(f"[{index}]")
            raise
    return written


def _mapping(value: Mapping[Any, Any], depth: int) -> Any:
    plain = all(type(key) is str and not key.startswith("$") for key in value)
    written: dict[str, Any] = {}
    pairs: list[list[Any]] = []
    for key, one in value.items():
        try:
            held = _write(one, depth + 1)
            if plain:
                written[key] = held
            else:
                pairs.append([_write(key, depth + 1), held])
        except _Unencodable as problem:
            problem.path.append(f".{key}")
            raise
    return written if plain else {"$dict": pairs}


def _tagged(kind: type, value: Any, depth: int) -> Any:
    if kind is tuple:
        return {"$tuple": _items(value, depth)}
    if kind is set or kind is frozenset:
        return {f"${kind.__name__}": sorted(_items(value, depth), key=repr)}
    if kind is bytes or kind is bytearray:
        return {f"${kind.__name__}": base64.b64encode(value).decode()}
    if kind is deque:
        return {"$deque": [value.maxlen, _items(value, depth)]}
    if kind is timedelta:
        return {"$timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, PurePath):
        return {"$path": str(value)}
    if isinstance(value, Enum):
        return {"$enum": [type_name(kind), value.name]}
    if hasattr(kind, "model_fields") and hasattr(kind, "model_construct"):
        held = {**value.__dict__, **(getattr(value, "__pydantic_extra__", None) or {})}
        return {"$model": [type_name(kind), _mapping(held, depth), sorted(value.model_fields_set)]}
    if is_dataclass(value):
        held = {one.name: getattr(value, one.name) for one in fields(value)}
        return {"$data": [type_name(kind), _mapping(held, depth)]}
    raise _Unencodable(
        f"a {kind.__module__}.{kind.__qualname__} has no stored form; keep plain values, dataclasses, pydantic models "
        "or enums in what is saved"
    )


def _read(raw: Any, types: Mapping[str, type]) -> Any:
    kind = type(raw)
    if kind is list:
        return [_read(one, types) for one in raw]
    if kind is not dict:
        return raw
    if len(raw) == 1:
        ((tag, held),) = raw.items()
        if tag.startswith("$"):
            return _untagged(tag, held, types)
    return {key: _read(one, types) for key, one in raw.items()}


def _untagged(tag: str, held: Any, types: Mapping[str, type]) -> Any:
    if tag in _FROM_TEXT:
        return _FROM_TEXT[tag](held)
    match tag:
        case "$tuple":
            return tuple(_read(held, types))
        case "$dict":
            return {_read(key, types): _read(one, types) for key, one in held}
        case "$int":
            return int(held, 16)
        case "$float":
            return float(held)
        case "$str":
            return base64.b64decode(held).decode("utf-8", "surrogatepass")
        case "$bytes":
            return base64.b64decode(held)
        case "$bytearray":
            return bytearray(base64.b64decode(held))
        case "$set":
            return set(_read(held, types))
        case "$frozenset":
            return frozenset(_read(held, types))
        case "$deque":
            return deque(_read(held[1], types), held[0])
        case "$timedelta":
            return timedelta(*held)
        case "$path":
            return Path(held)
        case "$enum":
            return _class(held[0], types)[held[1]]  # type: ignore[index]
        case "$model":
            values = _read(held[1], types)
            return _class(held[0], types).model_construct(_fields_set=set(held[2]), **values)  # type: ignore[attr-defined]
        case "$data":
            return _data(_class(held[0], types), _read(held[1], types))
    raise EncodingError(f"unknown tag {tag!r}; was this written by a later version?")


def _class(name: str, types: Mapping[str, type]) -> type:
    """Return the class of a name, among those named and what is derived from them; nothing is imported for it."""
    found = types.get(name) or next((one for one in _derived(types.values()) if type_name(one) == name), None)
    if found is None:
        raise EncodingError(
            f"a stored value is a {name}, which is not among the classes that may be read back; name it in "
            "compile(types=[...])"
        )
    return found


def _derived(classes: Iterable[type]) -> Iterator[type]:
    waiting: list[type] = list(classes)
    seen = set(waiting)
    while waiting:
        below: list[type] = waiting.pop().__subclasses__()
        for one in below:
            if one not in seen:
                seen.add(one)
                waiting.append(one)
                yield one


def _data(kind: type, values: Mapping[str, Any]) -> Any:
    """Make a dataclass from its stored fields, without its ``__init__``: what was stored is what comes back."""
    made: Any = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made
