"""The lines of a bundle: canonical JSON objects of six types, read so strictly that no byte is without meaning.

docs/reference/ledger-format.md is the grammar. A line that is read here has exactly the members of its type, each of
the right form, and is the one way to write what it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from meshflow.errors import EncodingError, LedgerError
from meshflow.ledger.format.canonical import MAX_INTEGER, canonical_bytes
from meshflow.ledger.format.entry import FIELD_NUMBER

FORMAT = "meshflow/bundle/v1"
MAX_LINE = 2**30
PARTS = ("inherited", "tenant", "whole")
"""How much of a run a bundle holds: what another one inherits, what one tenant has in it, or all of it."""

_HASH = re.compile("[0-9a-f]{64}")
_SALT = re.compile("[0-9a-f]{32}")


class FormError(LedgerError):
    """A bundle cannot be read on, since a line of it does not have the form that it must have; says at which layer."""

    def __init__(self, problem: str, layer: str = "form") -> None:
        self.layer = layer
        super().__init__(problem)


def line_of(kind: str, **members: Any) -> bytes:
    """Return a line with its newline."""
    line = canonical_bytes({**members, "type": kind}) + b"\n"
    if len(line) > MAX_LINE:
        raise LedgerError(
            f"an entry takes {len(line)} bytes, and a line of a bundle at most {MAX_LINE}; leave the payloads out"
        )
    return line


def read_line(line: bytes) -> dict[str, Any]:
    """Return what a line says, ``type`` among it; FormError unless it is a line as ``line_of`` writes it."""
    if not line.endswith(b"\n"):
        raise FormError("the line is cut off" if len(line) <= MAX_LINE else f"the line has more than {MAX_LINE} bytes")
    try:
        document: dict[str, Any] = orjson.loads(line)
        canonical = canonical_bytes(document)
    except (orjson.JSONDecodeError, EncodingError) as error:
        raise FormError(f"the line is not canonical JSON: {error}") from None
    if canonical + b"\n" != line:
        raise FormError("the line is not canonical JSON: it could be written in another way")
    kind = document.get("type") if isinstance(document, dict) else None
    members = _LINES.get(kind) if isinstance(kind, str) else None
    if members is None:
        raise FormError("the line is of no known type")
    if set(document) != members.keys() | {"type"}:
        raise FormError(f"the members of the {kind} line are not {sorted(members)}")
    for name, sound in members.items():
        if not sound(document[name]):
            raise FormError(f"{name} of the {kind} line does not have the form that it must have")
    return document


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _hashes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_hash, value))


def _runs(value: Any) -> bool:
    """Say whether runs are listed once each, in the order of their ids, or not listed at all."""
    if value is None:
        return True
    if not isinstance(value, list) or not value:
        return False
    for run in value:
        if not isinstance(run, dict) or run.keys() != {"part", "run_id"}:
            return False
        if not _text(run["run_id"]) or not run["run_id"] or run["part"] not in PARTS:
            return False
    return _names([run["run_id"] for run in value])


def _payloads(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in FIELD_NUMBER
        and isinstance(payload, dict)
        and payload.keys() == {"data", "salt"}
        and _text(payload["data"])
        and _text(payload["salt"])
        and _SALT.fullmatch(payload["salt"]) is not None
        for name, payload in value.items()
    )


def _names(value: Any) -> bool:
    """Say whether names are listed once each, in order."""
    return isinstance(value, list) and all(map(_text, value)) and value == sorted(set(value))


_LINES: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "header": {
        "format": lambda value: value == FORMAT, "origin": _text, "payloads": lambda value: isinstance(value, bool),
        "runs": _runs, "size": _count, "tenant": lambda value: value is None or _text(value), "writer": _text,
    },
    "key": {"key": _text, "note": _text, "since": _count},
    "checkpoint": {"anchors": _names, "note": _text},
    "entry": {
        "body": _text, "entry_hash": _hash, "payloads": _payloads, "position": _count, "prev_hash": _hash,
        "run_id": _text, "seq": _count,
    },
    "skip": {"hashes": _hashes, "stop": _count},
    "end": {"entries": _count, "sha256": _hash},
}  # fmt: skip
