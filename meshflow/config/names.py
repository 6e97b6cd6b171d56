"""The names that a settings type knows, at any depth, for "did you mean"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo


def field_names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return what may stand in a file as a key of this model: aliases, and names where those are accepted."""
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    found: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        alias = info.validation_alias or info.alias
        spellings = alias.choices if isinstance(alias, AliasChoices) else [alias]
        texts = [spelling for spelling in spellings if isinstance(spelling, str)]
        for text in [*texts, name] if by_name or not texts else texts:
            found[text] = info
    return found


def names_at(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    """Return the known names at a location that pydantic reports, where union labels and keys stand among fields."""
    models = [model]
    for part in location:
        below: list[type[BaseModel]] = []
        known = False
        for candidate in models:
            info = field_names(candidate).get(part) if isinstance(part, str) else None
            if info is not None:
                known = True
                below += models_in(info.annotation)
        named = [candidate for candidate in models if candidate.__name__ == part]
        models = below if known else named or models
    return {name for candidate in models for name in field_names(candidate)}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a type such as ``dict[str, A | B]`` mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from models_in(argument)
