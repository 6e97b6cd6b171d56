"""Going through a log from its first leaf to its last: by leaves where a bundle has them, by subtrees where not.

That is one inclusion proof for all entries of a bundle, and a consistency proof between all sizes at which it stops,
with each hash given once.
"""

from __future__ import annotations

from meshflow.ledger.format.merkle import Frontier


def cover(start: int, stop: int) -> list[tuple[int, int]]:
    """Return the fewest complete subtrees that hold leaves start to stop-1, in order, by level and index."""
    found = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append((level, start >> level))
        start += 1 << level
    return found


def pass_over(frontier: Frontier, stop: int, hashes: list[bytes]) -> bool:
    """Append the subtrees that lead to ``stop``; False, with nothing appended, when there are not as many as needed."""
    places = cover(frontier.size, stop)
    if not places or len(places) != len(hashes):
        return False
    for (level, _), root in zip(places, hashes, strict=True):
        frontier.append_complete(level, root)
    return True
