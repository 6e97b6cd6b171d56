"""A run in outline: of each step what a comparison needs, in columns, so that a long run stays small in memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from meshflow.ledger.format.payload import UNENCODABLE

_DIGEST_BYTES = 32
_NO_DIGEST = bytes(_DIGEST_BYTES)
_WITHHELD = b'"meshflow:withheld"'
_OPAQUE = f'"{UNENCODABLE}":{{'.encode()
_HASHED = b'"sha256":"'
# What the scanners write in place of what they found. A surrogate or a keyed hash can be compared, a mask cannot.
_MASK = re.compile(rb"<[A-Z][A-Z_]{2,}>")


class Doubt(IntEnum):
    """Why equal records of an output do not prove that the outputs were equal."""

    NONE = 0
    REDACTED = 1
    UNENCODABLE = 2
    WITHHELD = 3
    ERASED = 4

    @property
    def label(self) -> str:
        """Return the doubt as results name it."""
        return self.name.lower()


def doubt_of(data: bytes) -> Doubt:
    """Return what keeps a payload's bytes from standing for the value they were made of."""
    if b"meshflow:" in data:
        if _WITHHELD in data:
            return Doubt.WITHHELD
        if data.count(_OPAQUE) > data.count(_HASHED):
            return Doubt.UNENCODABLE
    return Doubt.REDACTED if b"<" in data and _MASK.search(data) is not None else Doubt.NONE


def is_digest(data: bytes) -> bool:
    """Say whether a payload keeps the digest of a value, or of a part of it: enough to compare, not to run again."""
    return _OPAQUE in data


@dataclass(slots=True)
class Outline:
    """The steps of a run in order, those that a fork inherits first; ``inherited`` says how many those are.

    ``ends`` are (verdict, code), each kept once; ``digests`` hold 32 bytes and ``doubts`` one byte a step.
    """

    run_id: str
    inherited: int = 0
    nodes: list[str] = field(default_factory=list)
    indexes: array[int] = field(default_factory=lambda: array("q"))
    ends: list[tuple[str, str]] = field(default_factory=list)
    costs: array[int] = field(default_factory=lambda: array("q"))
    tokens: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)
    doubts: bytearray = field(default_factory=bytearray)
    _nodes: dict[str, str] = field(default_factory=dict, repr=False)
    _ends: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.nodes)

    def add(
        self, step_index: int, node_id: str, end: tuple[str, str], cost_micro_usd: int, tokens: int,
        output: bytes | None, erased: bool,
    ) -> None:  # fmt: skip
        """Add the next step: ``end`` is its verdict and code, ``output`` its payload's bytes, if it has one."""
        self.extend([step_index], [node_id], [end], [cost_micro_usd], [tokens], [output], [erased])

    def extend(
        self, indexes: Sequence[int], nodes: Sequence[str], ends: Sequence[tuple[str, str]], costs: Sequence[int],
        tokens: Sequence[int], outputs: Sequence[bytes | None], erased: Sequence[bool],
    ) -> None:  # fmt: skip
        """Add the next steps, in columns."""
        self.indexes.extend(indexes)
        self.nodes += map(self._nodes.setdefault, nodes, nodes)
        self.ends += map(self._ends.setdefault, ends, ends)
        self.costs.extend(costs)
        self.tokens.extend(tokens)
        self.digests += b"".join([_NO_DIGEST if data is None else sha256(data).digest() for data in outputs])
        self.doubts += bytes([
            doubt_of(data) if data is not None else Doubt.ERASED if gone else Doubt.NONE
            for data, gone in zip(outputs, erased, strict=True)
        ])  # fmt: skip

    def digest(self, place: int) -> bytes:
        """Return the digest of a step's output; nothing is ever verified by it."""
        return bytes(self.digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES])

    def deeds(self) -> Deeds:
        """Return for each step what tells apart what steps did: their end and their output."""
        return Deeds(self)

    def own_cost(self) -> int:
        """Return what the run itself spent, in micro-USD."""
        return sum(self.costs[self.inherited :])

    def own_tokens(self) -> int:
        """Return the tokens that the run itself used."""
        return sum(self.tokens[self.inherited :])


class Deeds:
    """What the steps of an outline did, found when it is asked for: most comparisons ask for little of it."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline

    def __getitem__(self, place: int, /) -> Hashable:
        return self._outline.ends[place], self._outline.digest(place)
