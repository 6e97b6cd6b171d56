"""Which classes may be read back from a checkpoint: those that the state's annotations name, and no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, get_args, get_type_hints

from meshflow.checkpoint.encode import type_name


def readable_types(schemas: Sequence[Any], more: Sequence[type]) -> dict[str, type]:
    """Return the dataclasses, pydantic models and enums that the classes name, at any depth, by their stored names."""
    found: dict[str, type] = {}
    seen: set[Any] = set()
    waiting: list[Any] = [*schemas, *more]
    while waiting:
        hint = waiting.pop()
        if _known(hint, seen):
            continue
        waiting.extend(get_args(hint))
        if not isinstance(hint, type):
            continue
        if dataclasses.is_dataclass(hint) or hasattr(hint, "model_fields") or issubclass(hint, Enum):
            found[type_name(hint)] = hint
        if not issubclass(hint, Enum) and getattr(hint, "__annotations__", None):
            waiting.extend(_fields(hint))
    return found


def _known(hint: Any, seen: set[Any]) -> bool:
    try:
        if hint in seen:
            return True
        seen.add(hint)
    except TypeError:  # an annotation may hold what cannot be hashed
        pass
    return False


def _fields(kind: type) -> Iterator[Any]:
    try:
        yield from get_type_hints(kind, include_extras=True).values()
    except (NameError, TypeError):
        return
