"""Pair the steps of two runs: by node, in order, and by what they did where one run has more of a node."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

Pair = tuple[int, int]
# A key that comes more often than this is tried at this many places, so that time stays linear.
_PLACES = 8


class Deeds(Protocol):
    """What each step did, by its place; asked for where it matters alone."""

    def __getitem__(self, place: int, /) -> Hashable: ...


def pair_up(nodes_a: Sequence[str], deeds_a: Deeds, nodes_b: Sequence[str], deeds_b: Deeds) -> list[Pair]:
    """Return which step of A belongs to which of B, as places in order of A.

    ``deeds`` says what each step did. A node that ran as often in both is paired time for time. Where it ran more often
    in one of them, steps that did the same are paired, then those between the same neighbours, then the rest in order;
    of one node no two pairs cross.
    """
    places_a, places_b = _places(nodes_a), _places(nodes_b)
    pairs: list[Pair] = []
    for node, mine in places_a.items():
        yours = places_b.get(node, [])
        if len(mine) == len(yours):
            pairs += zip(mine, yours, strict=True)
        elif yours:
            keys_a, keys_b = [deeds_a[at] for at in mine], [deeds_b[at] for at in yours]
            around_a = [_neighbours(nodes_a, at) for at in mine]
            around_b = [_neighbours(nodes_b, at) for at in yours]
            pairs += [(mine[i], yours[j]) for i, j in _refined(keys_a, around_a, keys_b, around_b)]
    return sorted(pairs)


def _places(nodes: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        found.setdefault(node, []).append(place)
    return found


def _neighbours(nodes: Sequence[str], at: int) -> tuple[str | None, str | None]:
    return (nodes[at - 1] if at else None, nodes[at + 1] if at + 1 < len(nodes) else None)


def _refined(
    keys_a: Sequence[Hashable], around_a: Sequence[Hashable], keys_b: Sequence[Hashable], around_b: Sequence[Hashable]
) -> list[Pair]:
    pairs: list[Pair] = []
    for low_a, high_a, low_b, high_b in _gaps(common_order(keys_a, keys_b), len(keys_a), len(keys_b), pairs):
        near = common_order(around_a[low_a:high_a], around_b[low_b:high_b])
        inner: list[Pair] = []
        for left_a, right_a, left_b, right_b in _gaps(near, high_a - low_a, high_b - low_b, inner):
            inner += zip(range(left_a, right_a), range(left_b, right_b), strict=False)
        pairs += [(low_a + i, low_b + j) for i, j in inner]
    return pairs


def _gaps(matched: list[Pair], size_a: int, size_b: int, pairs: list[Pair]) -> list[tuple[int, int, int, int]]:
    """Put the matched pairs in, and return what lies between them where both sides have something left."""
    pairs += matched
    found, at_a, at_b = [], 0, 0
    for i, j in [*matched, (size_a, size_b)]:
        if i > at_a and j > at_b:
            found.append((at_a, i, at_b, j))
        at_a, at_b = i + 1, j + 1
    return found


def common_order(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Return a long common subsequence as places in both: the longest, unless keys repeat very often."""
    start, stop_a, stop_b = 0, len(a), len(b)
    while start < stop_a and start < stop_b and a[start] == b[start]:
        start += 1
    while stop_a > start and stop_b > start and a[stop_a - 1] == b[stop_b - 1]:
        stop_a, stop_b = stop_a - 1, stop_b - 1
    middle = _longest(a, b, start, stop_a, stop_b)
    tail = zip(range(stop_a, len(a)), range(stop_b, len(b)), strict=True)
    return [*((i, i) for i in range(start)), *middle, *tail]


def _longest(a: Sequence[Hashable], b: Sequence[Hashable], start: int, stop_a: int, stop_b: int) -> list[Pair]:
    """Return the longest increasing chain of equal places (Hunt and Szymanski 1977), with few tries a place."""
    where: dict[Hashable, list[int]] = {}
    for j in range(start, stop_b):
        where.setdefault(b[j], []).append(j)
    ends: list[int] = []
    chains: list[Any] = []
    seen: dict[Hashable, int] = {}
    for i in range(start, stop_a):
        candidates = where.get(a[i])
        if candidates is None:
            continue
        if len(candidates) > _PLACES:
            rank = seen.get(a[i], 0)
            seen[a[i]] = rank + 1
            first = max(0, min(rank - _PLACES // 2, len(candidates) - _PLACES))
            candidates = candidates[first : first + _PLACES]
        for j in reversed(candidates):
            length = bisect_left(ends, j)
            longer = (i, j, chains[length - 1] if length else None)
            if length == len(ends):
                ends.append(j)
                chains.append(longer)
            else:
                ends[length], chains[length] = j, longer
    found: list[Pair] = []
    link = chains[-1] if chains else None
    while link is not None:
        found.append((link[0], link[1]))
        link = link[2]
    return found[::-1]
