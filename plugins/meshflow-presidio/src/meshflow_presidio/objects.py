"""Objects with fields: dataclass instances and pydantic models, which outputs often are."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return an object's fields by name, or None for an object that has none."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return {
            field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
        }
    if isinstance(getattr(kind, "model_fields", None), Mapping) and callable(getattr(kind, "model_copy", None)):
        return {**_dict(value, "__dict__"), **_dict(value, "__pydantic_extra__")}
    return None


def with_fields(value: Any, fields: Mapping[str, Any]) -> Any:
    """Return a copy of the object with these fields in place of its own."""
    if dataclasses.is_dataclass(type(value)):
        # Not ``dataclasses.replace``, which runs ``__post_init__`` and takes no field that ``__init__`` does not.
        new = copy.copy(value)
        for name, item in fields.items():
            object.__setattr__(new, name, item)
        return new
    return value.model_copy(update=dict(fields))


def _dict(value: Any, name: str) -> dict[str, Any]:
    found = getattr(value, name, None)
    return found if isinstance(found, dict) else {}
