"""Turn a decision document into JSON, refusing what JSON would bend: NaN, lone surrogates, keys that are no text."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import orjson

from meshflow.policy.engine import PolicyFailure

MAX_DEPTH = 100
"""Nesting that every engine takes; the embedded one stops at 128."""

_LARGEST = 2**63 - 1
_EXACT = frozenset({str, bool, type(None)})


def encode(document: Mapping[str, Any], max_bytes: int) -> bytes | PolicyFailure:
    """Return the document's JSON, or the failure that denies the step."""
    problem = _problem(document)
    if problem is not None:
        return PolicyFailure("unencodable_input", problem)
    try:
        encoded = orjson.dumps(document, default=_mapping)
    except orjson.JSONEncodeError as error:  # names a type or says that text is no valid Unicode; quotes no value
        return PolicyFailure("unencodable_input", str(error)[:200])
    if len(encoded) > max_bytes:
        return PolicyFailure(
            "input_too_large", f"the decision document is {len(encoded)} bytes; the cap is {max_bytes}"
        )
    return encoded


def _mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _problem(root: Any) -> str | None:
    """Return where and why a value has no JSON form. A stack, not recursion: depth is the attacker's to choose."""
    stack: list[tuple[Any, str, int]] = [(root, "input", 0)]
    while stack:
        value, path, depth = stack.pop()
        kind = type(value)
        if kind in _EXACT:
            continue
        if depth > MAX_DEPTH:
            return f"input is nested deeper than {MAX_DEPTH} levels"
        if kind is dict or isinstance(value, Mapping):
            for key, item in value.items():
                if type(key) is not str:
                    return f"{path}: a key of type {type(key).__name__}; keys must be text"
                if type(item) not in _EXACT:
                    stack.append((item, _below(path, key), depth + 1))
        elif kind is list or kind is tuple:
            for index, item in enumerate(value):
                if type(item) not in _EXACT:
                    stack.append((item, f"{path}[{index}]", depth + 1))
        elif (reason := _unfit_scalar(value)) is not None:
            return f"{path}: {reason}"
    return None


def _unfit_scalar(value: Any) -> str | None:
    # A NaN would become null, and null is less than every number: a rule "amount > 100" would let it pass.
    if isinstance(value, float):
        return None if isfinite(value) else "a number that is not finite"
    if isinstance(value, int):
        return None if -_LARGEST <= value <= _LARGEST else "a whole number beyond 64 bits"
    if isinstance(value, str):
        return None
    return f"a value of type {type(value).__name__}, which has no JSON form"


def _below(path: str, key: str) -> str:
    """Return the path of a member; a key that is no plain name may be data itself, and is not quoted."""
    return f"{path}.{key}" if len(key) <= 64 and key.isidentifier() else f"{path}.?"
