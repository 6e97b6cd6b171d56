"""Which parts of a recorded decision document need not be what the policy saw, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
# What the scanners write in place of what they found: a mask, a keyed hash, a sealed value, a surrogate.
_TOKEN = re.compile(r"<[A-Z][A-Z0-9_]{0,79}(?::[0-9a-f]{24}|:enc:[A-Za-z0-9_-]{38,})?>")
_MARKS = ("meshflow:withheld", "meshflow:unencodable")
_SAME_NAME = frozenset({"output", "metadata", "principal"})
_SCANNER = "presidio"
_TEXTS = (
    "arguments", "input", "metadata", "output", "principal", "approval", "tool", "action", "findings", "obligations",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Doubt:
    """A part of the document, by its path, and why it is doubtful: erased, redacted, withheld, replaced, in_part."""

    path: Path
    why: str


def doubts_of(
    step: Mapping[str, Any], place: int, document: Mapping[str, Any], watched: Callable[[Path], bool]
) -> Iterator[Doubt]:
    """Yield what a record cannot vouch for in a document that was made of it, where somebody looks.

    ``place`` is that of the policy's answer among the step's ``stages``: what others replaced behind it, it saw before.
    """
    given: Path = ("arguments",) if document["tool"] is not None else ("input",)
    stage = step["stages"][place]["stage"]
    for name in step["erased"]:
        if name == "input":
            yield Doubt(given, "erased")
        elif name in _SAME_NAME:
            yield Doubt((name,), "erased")
    late = stage in ("tool_permission", "output_guardrails")
    seen = _seen_by_policy(document) if late else frozenset()
    foreign = _scanned_by_others(step)
    for field in filter(lambda name: watched((name,)), _TEXTS):
        yield from _doubtful(document.get(field), (field,), seen)
        if foreign and _has_text(document.get(field)):
            yield Doubt((field,), "redacted")
    for result in step["stages"][place + 1 :]:
        if result["enforced"] and result["replaced"] and not _is_scanner(result):
            yield Doubt(("output",) if result["stage"] == "output_guardrails" else given, "replaced")
    if stage == "output_guardrails":
        stream = document["stream"]
        if stream is not None and not stream["final"]:
            yield Doubt(("output",), "in_part")
        elif document["output"] is None and step["verdict"] != "commit":
            yield Doubt(("output",), "withheld")


def _doubtful(value: Any, path: Path, seen: frozenset[Path]) -> Iterator[Doubt]:
    if isinstance(value, str):
        if "<" in value and _TOKEN.search(value) and path not in seen:
            yield Doubt(path, "redacted")
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in _MARKS:
                yield Doubt(path, name.removeprefix("meshflow:"))
            elif "<" in name and _TOKEN.search(name):
                yield Doubt(path, "redacted")  # which key it was is not known
            yield from _doubtful(item, (*path, name), seen)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _doubtful(item, (*path, str(index)), seen)


def _is_scanner(result: Mapping[str, Any]) -> bool:
    """Return whether what a plugin wrote in place of something can be told by its form."""
    name: str = result["plugin"]
    return name.partition("@")[0] == _SCANNER


def _scanned_by_others(step: Mapping[str, Any]) -> bool:
    """Return whether a scanner of another make redacted the record: nobody knows what it writes in place of things."""
    return step["redaction"] == "stage" and any(
        result["stage"] == "sensitive_data_scan" and not _is_scanner(result) for result in step["stages"]
    )


def holds_token(value: Any) -> bool:
    """Return whether a scanner wrote something in place of what it found, at any depth."""
    return next(_doubtful(value, (), frozenset()), None) is not None


def _has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_text, value.values()))
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str) and value != ""


def _seen_by_policy(document: Mapping[str, Any]) -> frozenset[Path]:
    """Return the places that stage 8 had masked before the policy was asked; there the record is what it saw.

    Where something beside it was allowed, the policy saw that, and the record has it masked.
    """
    field = "arguments" if document["tool"] is not None else "input"
    masked: set[Path] = set()
    allowed: set[Path] = set()
    for one in document["findings"]:
        parts = _parts(one.get("path", ""))
        if parts is not None:
            (allowed if one.get("action") in ("allow", None) else masked).add((field, *parts))
    return frozenset(masked - allowed)


_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]")


def _parts(path: str) -> Path | None:
    """Return the parts of a finding's path, ``$.to[0]['a b']``; None for one that begins elsewhere or is odd."""
    if not path.startswith("$") or path.startswith("$m"):
        return None
    parts: list[str] = []
    at = 1
    while at < len(path):
        found = _PART.match(path, at)
        if found is None:
            return None
        parts.append(next(one for one in found.groups() if one is not None))
        at = found.end()
    return tuple(parts)
