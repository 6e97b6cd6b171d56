"""Gates: linear-time patterns that match wherever a recogniser could, so that clean text is passed over quickly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import re2  # type: ignore[import-untyped]

# What `\w` and `\s` of the regex module match and RE2's do not; text is folded before, so more is not needed.
_WORD = r"\p{L}\p{M}\p{N}\p{Pc}"
_SPACE = r"\s\x0b\x1c-\x1f\x85\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_LONG_REPEAT = re.compile(r"\{(\d+),\d{4,}\}")
_LOOKS = ("(?=", "(?!", "(?<=", "(?<!")


def _end_of_class(pattern: str, start: int) -> int:
    """Return the index after the character class that opens at ``start``."""
    i = start + 1
    if pattern[i : i + 1] == "^":
        i += 1
    if pattern[i : i + 1] == "]":
        i += 1
    while i < len(pattern) and pattern[i] != "]":
        i += 2 if pattern[i] == "\\" else 1
    return i + 1


def _end_of_group(pattern: str, start: int) -> int:
    """Return the index after the group that opens at ``start``."""
    depth, i = 0, start
    while i < len(pattern):
        char = pattern[i]
        if char == "\\":
            i += 2
            continue
        if char == "[":
            i = _end_of_class(pattern, i)
            continue
        depth += (char == "(") - (char == ")")
        i += 1
        if depth == 0:
            return i
    raise ValueError("unbalanced group")


def without_assertions(pattern: str) -> str:
    """Return the pattern without look-around, boundaries and anchors: it matches wherever the pattern does."""
    out: list[str] = []
    i = 0
    while i < len(pattern):
        char = pattern[i]
        if char == "\\":
            escape = pattern[i : i + 2]
            i += 2
            if escape in (r"\b", r"\B", r"\A", r"\Z"):
                continue
            out.append({r"\w": f"[{_WORD}]", r"\s": f"[{_SPACE}]"}.get(escape, escape))
        elif char == "[":
            end = _end_of_class(pattern, i)
            out.append(pattern[i:end].replace(r"\w", _WORD).replace(r"\s", _SPACE))
            i = end
        elif char == "(" and pattern.startswith(_LOOKS, i):
            i = _end_of_group(pattern, i)
        elif char in "^$":
            i += 1
        else:
            out.append(char)
            i += 1
    # RE2 counts to a thousand; "at least" matches wherever "at most" does.
    return _LONG_REPEAT.sub(r"{\1,}", "".join(out))


def compile_re2(pattern: str, *, ignore_case: bool = True) -> Any:
    """Compile a pattern with RE2; raise ValueError with RE2's reason where it cannot be."""
    options = re2.Options()
    options.case_sensitive = not ignore_case
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = 32 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"RE2 refuses the pattern: {error}") from None


def gate_of(patterns: Sequence[str]) -> str | None:
    """Return one RE2 pattern that matches wherever one of the patterns could, or None where there is no such gate."""
    try:
        gate = "|".join(f"(?:{without_assertions(pattern)})" for pattern in patterns)
        compiled = compile_re2(gate)
    except ValueError:
        return None
    # A gate that matches the empty text passes everything, which costs time but never hides a finding.
    return None if compiled.search("") is not None else gate
