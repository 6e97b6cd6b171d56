"""The log of a whole ledger: a Merkle tree kept as a frontier to append to, and as tiles of 256 hashes to prove from.

A tile of level L at position p holds the roots of the 256 complete subtrees of 256**L leaves from subtree p * 256 on,
so level 0 holds leaf hashes. A tile is stored, with its own root, once it is full, and never changes. What is not in a
full tile yet is found in the entries (level 0) or in the roots of the full tiles one level below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple

from meshflow.errors import LedgerError
from meshflow.ledger.format.merkle import Frontier, complete_root, complete_rows

TILE = 256
_BITS = 8
_KEPT = 64

Recall = Callable[[int, int, int], list[bytes]]
"""Returns the hashes of a level at places start to stop-1, at most one tile of them, from what is stored."""


class Tile(NamedTuple):
    """A full tile."""

    level: int
    position: int
    root: bytes
    hashes: bytes


class Log:
    """The tree while it grows; ``recall`` fetches the beginning of a tile that was begun before this object was."""

    def __init__(self, frontier: Frontier, recall: Recall) -> None:
        self.frontier = frontier
        self._recall = recall
        self._edges: dict[int, list[bytes]] = {}

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return self.frontier.size

    def extend(self, entry_hashes: Iterable[bytes]) -> list[Tile]:
        """Append leaves and return the tiles that they filled, lower levels first."""
        frontier, full = self.frontier, []
        edge = self._edges.setdefault(0, [])
        leaves = [sha256(b"\x00" + entry_hash).digest() for entry_hash in entry_hashes]
        at = 0
        while at < len(leaves):
            some = leaves[at : at + TILE - frontier.size % TILE]
            at += len(some)
            frontier.extend(some)
            edge += some
            if not frontier.size % TILE:
                full += self._fill(0, frontier.size // TILE - 1)
        return full

    def _fill(self, level: int, position: int) -> list[Tile]:
        edge = self._edges.setdefault(level, [])
        if len(edge) < TILE:
            edge[:0] = self._recall(level, position * TILE, (position + 1) * TILE - len(edge))
        if len(edge) != TILE:
            raise LedgerError(f"the log lacks hashes of level {level} below {(position + 1) * TILE}; verify the ledger")
        root = complete_root(edge)
        size = self.frontier.size
        if size % TILE ** (level + 1) == 0 and (size >> _BITS * (level + 1)) & 1 and root != self.frontier.peaks[-1]:
            raise LedgerError("entries of the ledger are not those that its log holds; verify the ledger")
        tile = Tile(level, position, root, b"".join(edge))
        edge.clear()
        above = self._edges.setdefault(level + 1, [])
        above.append(root)
        return [tile] if (position + 1) % TILE else [tile, *self._fill(level + 1, position // TILE)]


class Nodes:
    """Roots of complete subtrees, computed from stored hashes; a ``Node`` for the proofs of ``merkle``.

    ``known`` is a frontier whose peaks need not be computed again; a verifier gives none.
    """

    def __init__(self, recall: Recall, known: Frontier | None = None) -> None:
        self._recall = recall
        self._known: dict[tuple[int, int], bytes] = {}
        if known is not None:
            self._known = known.places()
        self._levels: dict[tuple[int, int], list[list[bytes]]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Return the root of a complete subtree."""
        if (level, index) in self._known:
            return self._known[level, index]
        height = level % _BITS
        tier, start, count = level // _BITS, index << height, 1 << height
        rows = self._tree(tier, start // TILE)
        place = (start % TILE) >> height
        if height >= len(rows) or place >= len(rows[height]):
            raise LedgerError(f"the log lacks hash {start + count - 1} of level {tier}; verify the ledger")
        return rows[height][place]

    def _tree(self, tier: int, position: int) -> list[list[bytes]]:
        """Return every complete node in a tile, full or not, row by row."""
        key = (tier, position)
        if key not in self._levels:
            if len(self._levels) >= _KEPT:
                del self._levels[next(iter(self._levels))]
            self._levels[key] = complete_rows(self._recall(tier, position * TILE, (position + 1) * TILE))
        return self._levels[key]

    def leaves(self, position: int) -> list[bytes]:
        """Return the leaf hashes in a tile, full or not."""
        return self._tree(0, position)[0]
