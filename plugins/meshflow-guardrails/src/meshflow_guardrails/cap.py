"""The obligation to cap an output: the first so many characters of its text, wherever in the value they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshflow_guardrails.walk import changed

_NAMES = ("chars", "max_chars", "characters", "limit")


def limit_of(asked: list[Mapping[str, Any]]) -> int | None:
    """Return the lowest number of characters that the obligations name; None where one names none."""
    limits: list[int] = []
    for parameters in asked:
        values = [parameters[name] for name in _NAMES if name in parameters]
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
            return None
        limits += values
    return min(limits)


def capped(value: Any, limit: int) -> Any:
    """Return the value with only the first ``limit`` characters of all its text; keys are left, numbers too."""
    left = limit

    def cut(text: str) -> str:
        nonlocal left
        kept = text[:left]
        left -= len(kept)
        return kept

    return _values_changed(value, cut)


def _values_changed(value: Any, cut: Any) -> Any:
    if isinstance(value, Mapping):
        out = {key: _values_changed(item, cut) for key, item in value.items()}
        return value if all(out[key] is value[key] for key in out) else out
    if isinstance(value, list):
        items = [_values_changed(item, cut) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return changed(value, cut)
