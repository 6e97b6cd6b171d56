"""The labels of a state's values: which came from whom, so that each step says what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshflow.facts import Confidentiality, Origin, TaintLabels

_MAX_SOURCES = 16


class Provenance:
    """Labels by key of the state. ``base`` are those of the run's input, once the first step has shown them."""

    __slots__ = ("base", "keys")

    def __init__(self, base: TaintLabels | None = None) -> None:
        self.base = base
        self.keys: dict[str, TaintLabels] = {}

    def reading(self, keys: Iterable[str]) -> TaintLabels | None:
        """Return the labels of a step that reads these keys; None while only the kernel can say."""
        joined: TaintLabels | None = None
        from_input = False
        for key in keys:
            labels = self.keys.get(key)
            if labels is None:
                from_input = True
            else:
                joined = labels if joined is None else join(joined, labels)
        if from_input and self.base is not None:
            joined = self.base if joined is None else join(joined, self.base)
        return joined

    def everything(self) -> TaintLabels | None:
        """Return the labels of a step that may read anything."""
        joined = self.base
        for labels in self.keys.values():
            joined = labels if joined is None else join(joined, labels)
        return joined

    def wrote(self, key: str, labels: TaintLabels, *, over: bool) -> None:
        """Note who wrote a key; ``over`` says that nothing of the old value is left."""
        known = self.keys.get(key) if not over else None
        if not over and known is None and self.base is not None:
            known = self.base
        self.keys[key] = labels if known is None else join(known, labels)

    def to_plain(self) -> dict[str, Any]:
        """Return the labels as plain values for a checkpoint."""
        return {
            "base": labels_to_plain(self.base),
            "keys": {key: labels_to_plain(labels) for key, labels in self.keys.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Provenance:
        """Return the labels that a checkpoint holds."""
        made = cls(labels_from_plain(plain["base"]))
        for key, held in plain["keys"].items():
            labels = labels_from_plain(held)
            if labels is not None:
                made.keys[key] = labels
        return made


def join(one: TaintLabels, other: TaintLabels) -> TaintLabels:
    """Return the least label that covers both; in a long run the list of sources stays short."""
    if one == other:
        return one
    joined = one.join(other)
    if len(joined.sources) <= _MAX_SOURCES:
        return joined
    return TaintLabels(joined.origin, joined.confidentiality, (*joined.sources[: _MAX_SOURCES - 1], "more"))


def labels_to_plain(labels: TaintLabels | None) -> list[Any] | None:
    """Return labels as plain values."""
    return None if labels is None else [labels.origin.name, labels.confidentiality.name, list(labels.sources)]


def labels_from_plain(plain: Any) -> TaintLabels | None:
    """Return the labels that plain values stand for."""
    if plain is None:
        return None
    origin, confidentiality, sources = plain
    return TaintLabels(Origin[origin], Confidentiality[confidentiality], tuple(sources))
