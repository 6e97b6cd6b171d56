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
_REPLACING_BEFORE_TOOLS = ("input_guardrails",)
_TEXTS = ("arguments", "input", "metadata", "output", "principal", "approval", "tool", "action")


@dataclass(frozen=True, slots=True)
class Doubt:
    """A part of the document, by its path, and why it is doubtful: erased, redacted, withheld, replaced, in_part."""

    path: Path
    why: str


def doubts_of(
    step: Mapping[str, Any], stage: str, document: Mapping[str, Any], watched: Callable[[Path], bool]
) -> Iterator[Doubt]:
    """Yield what a record cannot vouch for in a document that was made of it, where somebody looks."""
    given: Path = ("arguments",) if document["tool"] is not None else ("input",)
    for name in step["erased"]:
        if name == "input":
            yield Doubt(given, "erased")
        elif name in _SAME_NAME:
            yield Doubt((name,), "erased")
    late = stage in ("tool_permission", "output_guardrails")
    seen = _seen_by_policy(document) if late else frozenset()
    for field in _TEXTS:
        if watched((field,)):
            yield from _doubtful(document.get(field), (field,), seen)
    replaced = {result["stage"] for result in step["stages"] if result["enforced"] and result["replaced"]}
    if not late and replaced.intersection(_REPLACING_BEFORE_TOOLS):
        yield Doubt(given, "replaced")
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


def _seen_by_policy(document: Mapping[str, Any]) -> frozenset[Path]:
    """Return the places that stage 8 had masked before the policy was asked; there the record is what it saw."""
    field = "arguments" if document["tool"] is not None else "input"
    return frozenset(
        (field, *parts)
        for one in document["findings"]
        if one.get("action") not in ("allow", None) and (parts := _parts(one.get("path", ""))) is not None
    )


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
