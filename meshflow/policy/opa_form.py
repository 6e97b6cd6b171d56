"""The bytes that OPA hashes of a data file, in signed bundles: its content as compact JSON, written as Go writes it.

https://www.openpolicyagent.org/docs/management-bundles#signature-format: keys in order, no spaces. Numbers of a JSON
file stay as they are written there; those of a YAML file have been through Go's ``float64``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson

from meshflow.errors import ConfigError
from meshflow.policy.data import parse_document


class _AsWritten(str):
    """A number in the digits of its file."""

    __slots__ = ()


def opa_form(content: bytes, name: str) -> bytes:
    """Return what is hashed of a file that holds JSON or YAML; ConfigError for what no bundle may hold."""
    value: Any = parse_document(content, name)
    with suppress(ValueError, RecursionError):  # for YAML that is no JSON
        value = json.loads(content, parse_int=_AsWritten, parse_float=_AsWritten, parse_constant=_refuse)
    try:
        return b"".join(_written(value))
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"the data document has no JSON form: {error}", where=name) from None


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _written(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for place, key in enumerate(sorted(value)):
            yield b"," if place else b"{"
            yield _text(key)
            yield b":"
            yield from _written(value[key])
        yield b"}" if value else b"{}"
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield b"," if place else b"["
            yield from _written(item)
        yield b"]" if value else b"[]"
    elif isinstance(value, _AsWritten):
        yield value.encode()
    elif isinstance(value, str):
        yield _text(value)
    elif isinstance(value, float):
        yield _as_go_writes(value).encode()
    else:
        yield str(value).encode() if type(value) is int else orjson.dumps(value)


def _text(value: str) -> bytes:
    # Go escapes the two line ends that JavaScript minds.
    return orjson.dumps(value).replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")


def _as_go_writes(value: float) -> str:
    """Return a finite number with Python's digits, which are the shortest as Go's are, in the notation of Go."""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        whole = format(Decimal(repr(value)), "f")
        return whole.rstrip("0").rstrip(".") if "." in whole else whole
    digits, _, power = repr(value).partition("e")
    digits = digits.removesuffix(".0")
    return f"{digits}e{power[0]}{power[1:].lstrip('0')}"
