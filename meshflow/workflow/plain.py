"""Plain data: what nodes hand to each other, conditions look at, and a checkpoint can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

MAX_DEPTH = 64
MAX_SIZE = 16_777_216


class NotPlainError(ValueError):
    """A value that is not JSON, or more of it than a workflow carries."""


class Plain(NamedTuple):
    """A value of its own (nobody else can change it), its size, and how many parts it has.

    The size is one for each part and the length of each text and each key.
    """

    value: Any
    size: int
    parts: int = 1


NOTHING = Plain(None, 1)


def plain(value: Any, limit: int = MAX_SIZE) -> Plain:
    """Return a copy made of dict, list, str, int, float, bool and None; NotPlainError names what has no such form.

    Tuples become lists, enum members their value, dataclasses and pydantic models mappings.
    """
    if type(value) is str and value.isascii() and "\0" not in value and len(value) < limit:
        return Plain(value, len(value) + 1)
    if value is None or type(value) is bool:
        return Plain(value, 1)
    copier = _Copier(limit)
    copied = copier.copy(value, "$", 0)
    return Plain(copied, copier.size + copier.parts, copier.parts)


class _Copier:
    def __init__(self, limit: int) -> None:
        self.size = 0
        self.parts = 0
        self._limit = limit

    def copy(self, value: Any, place: str, depth: int) -> Any:
        self.parts += 1
        kind = type(value)
        if kind is str:
            self._text(value, place)
            return value
        if value is None or kind is bool or kind is int:
            return value
        if kind is float:
            if not math.isfinite(value):
                raise NotPlainError(f"{place} is {value}, which JSON has no form for")
            return value
        self._check(place, depth)
        if isinstance(value, Mapping):
            return {self._key(key, place): self.copy(item, f"{place}.{key}", depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.copy(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]
        return self.copy(_opened(value, place), place, depth + 1)

    def _key(self, key: Any, place: str) -> str:
        if not isinstance(key, str):
            raise NotPlainError(f"{place} has the key {key!r:.40}; keys are text")
        self._text(key, place)
        return str(key)

    def _text(self, text: str, place: str) -> None:
        self.size += len(text)
        self._check(place, 0)
        if "\0" in text:
            # The expression library ends a text there, so that 'a\0b' would equal 'a'.
            raise NotPlainError(f"{place} holds a NUL character")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise NotPlainError(f"{place} holds half of a surrogate pair, which is not text") from None

    def _check(self, place: str, depth: int) -> None:
        if self.size + self.parts > self._limit:
            raise NotPlainError(f"the value is larger than {self._limit:,} characters and parts")
        if depth > MAX_DEPTH:
            raise NotPlainError(f"{place[:80]} is more than {MAX_DEPTH} levels deep")


def _opened(value: Any, place: str) -> Any:
    """Return the plain value behind one of another type."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (str, int, float)):  # a subclass of theirs
        return next(base(value) for base in (str, int, float) if isinstance(value, base))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(type(value), "model_dump", None)
    if callable(dump):
        return dump(value, mode="json")
    raise NotPlainError(f"{place} is a {type(value).__name__}; nodes hand on JSON: mappings, lists, text and numbers")
