"""Copies of state, so that a change in place stays with whoever made it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")
_MISSING: Any = object()

# What cannot change needs no copy. Looked up by exact type: a subclass may carry attributes.
_SHARED = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, type})


def copied(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Return a copy that shares nothing which can change.

    Like ``copy.deepcopy``, faster for JSON-like values; an object that refuses to be copied (a lock, a connection, a
    model's client) is handed on as it is.
    """
    kind = type(value)
    if kind in _SHARED:
        return value
    if kind is list and _SHARED.issuperset(map(type, value)):
        return value[:]
    if memo is None:
        memo = {}
    elif id(value) in memo:
        return memo[id(value)]
    if kind is list:
        items: list[Any] = []
        memo[id(value)] = items
        items.extend(copied(one, memo) for one in value)
        return items
    if kind is dict:
        mapping: dict[Any, Any] = {}
        memo[id(value)] = mapping
        mapping.update((key, copied(one, memo)) for key, one in value.items())
        return mapping
    if kind is tuple:
        same = tuple(copied(one, memo) for one in value)
        return value if all(map(_is, same, value)) else same
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # an object's own code may raise anything; then there is one of it
        return value


def _is(one: object, other: object) -> bool:
    return one is other


class Isolated(dict[str, Any]):
    """The state as one of several nodes of a superstep sees it: each value is copied when it is first read.

    So a node pays for what it reads, not for what there is. Overriding ``__iter__`` makes ``dict(state)``,
    ``{**state}`` and ``update(state)`` go through ``__getitem__`` too (CPython's ``dict_merge`` reads a dict's own
    table only where the iterator is dict's).
    """

    __slots__ = ("_memo", "_raw")

    def __init__(self, shared: Mapping[str, Any]) -> None:
        super().__init__(shared)
        self._raw = set(shared)
        self._memo: dict[int, Any] = {}

    def _own(self, key: str) -> None:
        self._raw.discard(key)
        super().__setitem__(key, copied(super().__getitem__(key), self._memo))

    def _own_all(self) -> None:
        for key in tuple(self._raw):
            self._own(key)

    def __getitem__(self, key: str) -> Any:
        if key in self._raw:
            self._own(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return self[key] if key in self else default  # noqa: SIM401 - this is get

    def __setitem__(self, key: str, value: Any) -> None:
        self._raw.discard(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._raw.discard(key)
        super().__delitem__(key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, after setting it to the default if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Take a key out and return its value."""
        if key in self:
            value = self[key]
            del self[key]
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Take the last key out."""
        self._own_all()
        return super().popitem()

    def clear(self) -> None:
        """Forget every key."""
        self._raw.clear()
        super().clear()

    def update(self, *others: Any, **more: Any) -> None:
        """Set several keys."""
        for key, value in dict(*others, **more).items():
            self[key] = value

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> Any:
        """Return the items, every value copied."""
        self._own_all()
        return super().items()

    def values(self) -> Any:
        """Return the values, copied."""
        self._own_all()
        return super().values()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same values."""
        return dict(self.items())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return dict, (self.copy(),)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()
