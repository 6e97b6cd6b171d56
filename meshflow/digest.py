"""Digests of a step's input: to notice a plugin that changes it, and to bind an approval to it."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from pathlib import PurePath
from typing import Any

import orjson

_IMMUTABLE = (str, bytes, int, float, bool, type(None))
_BY_TEXT = (Decimal, Fraction, PurePath, complex, timedelta, range)
# Dataclasses are ours: orjson leaves out the fields that begin with an underscore.
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def can_change(value: object) -> bool:
    """Return whether a plugin could change the value in place."""
    return type(value) not in _IMMUTABLE


def digest(value: Any) -> bytes:
    """Return SHA-256 over the value's JSON form; objects without one count by type and identity."""
    return sha256(_encoded(value, _by_identity)).digest()


def new_salt() -> str:
    """Return 16 random bytes as hex."""
    return secrets.token_hex(16)


def arguments_digest(value: Any, salt: str) -> str:
    """Return the salted digest that an approval is bound to, as hex.

    Salted, so that the digest of a short argument does not give the argument away. Models and dataclasses count by all
    their fields, mappings, tuples and pydantic's secrets of any type by what they hold, numbers, paths and the like by
    their text. Other objects without a JSON form count by type alone, since a resumed step brings new ones.
    """
    return sha256(b"meshflow/arguments/v1\x00" + bytes.fromhex(salt) + _encoded(value, _by_type)).hexdigest()


def _encoded(value: Any, default: Any) -> bytes:
    try:
        return orjson.dumps(value, default=default, option=_OPTIONS)
    except Exception:  # whole numbers beyond 64 bits, lone surrogates, keys of other types, an object's own code
        try:
            return json.dumps(value, default=default, sort_keys=True).encode()
        except Exception:
            return f"{type(value)!r}:{id(value)}".encode()


def _by_type(value: Any) -> Any:
    found = _content(value)
    return found if found is not None else _name(value)


def _by_identity(value: Any) -> Any:
    found = _content(value)
    return found if found is not None else f"{_name(value)}:{id(value)}"


def _content(value: Any) -> Any:
    """Return what a value of no JSON type holds, under its type's name; None where that cannot be said."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return sha256(value).hexdigest()
    if isinstance(value, _BY_TEXT):
        return f"{_name(value)}:{value}"
    if isinstance(value, Mapping):
        return {_name(value): dict(value)}
    if isinstance(value, (tuple, deque)):
        return {_name(value): list(value)}
    reveal = getattr(type(value), "get_secret_value", None)  # of pydantic's SecretStr and its like
    if callable(reveal):
        return {_name(value): reveal(value)}
    model_fields = getattr(type(value), "model_fields", None)
    if isinstance(model_fields, dict):  # of a pydantic model
        # Not model_dump: it leaves out what is excluded, and what a subclass has more than the field it stands in.
        held = {name: getattr(value, name, None) for name in model_fields}
        return {_name(value): held | (getattr(value, "__pydantic_extra__", None) or {})}
    if is_dataclass(value) and not isinstance(value, type):
        return {_name(value): {one.name: getattr(value, one.name, None) for one in fields(value)}}
    return None


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
