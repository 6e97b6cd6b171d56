"""The Merkle tree of RFC 9162 (section 2.1): incremental roots, inclusion and consistency proofs, and their checks.

A leaf's data is an entry hash of 32 bytes::

    leaf_hash(data)        = SHA-256(0x00 || data)
    node_hash(left, right) = SHA-256(0x01 || left || right)

The tree of no leaves has the root SHA-256(""). A tree of n > 1 leaves splits at the largest power of two below n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256().digest()

Node = Callable[[int, int], bytes]
"""Returns the root of the complete subtree of 2**level leaves that starts at leaf index * 2**level."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two children."""
    return sha256(b"\x01" + left + right).digest()


def complete_rows(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """Return every complete node over neighbouring hashes, row by row from themselves up."""
    rows = [list(hashes)]
    while len(rows[-1]) > 1:
        pairs = iter(rows[-1][: len(rows[-1]) // 2 * 2])
        rows.append([sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)])
    return rows


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over a power of two of neighbouring hashes."""
    if len(hashes).bit_count() != 1:
        raise ValueError(f"{len(hashes)} hashes are no power of two")
    return complete_rows(hashes)[-1][0]


class Frontier:
    """What must be kept of a tree to append to it: the roots of its complete subtrees, the largest first."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self.peaks = list(peaks)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """Return the frontier that ``to_bytes`` wrote; ValueError when the length does not suit the size."""
        if len(data) % 32:
            raise ValueError("a frontier is made of hashes of 32 bytes")
        return cls(size, [data[at : at + 32] for at in range(0, len(data), 32)])

    def to_bytes(self) -> bytes:
        """Return the peaks end to end."""
        return b"".join(self.peaks)

    def places(self) -> dict[tuple[int, int], bytes]:
        """Return the peaks by level and index."""
        found, start = {}, 0
        for peak in self.peaks:
            level = (self.size - start).bit_length() - 1
            found[level, start >> level] = peak
            start += 1 << level
        return found

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves by their hashes."""
        size, peaks = self.size, self.peaks
        for node in leaves:
            place = size
            while place & 1:
                node = sha256(b"\x01" + peaks.pop() + node).digest()
                place >>= 1
            peaks.append(node)
            size += 1
        self.size = size

    def append_complete(self, level: int, root: bytes) -> None:
        """Add a complete subtree of 2**level leaves by its root; the size is a multiple of that."""
        place = self.size >> level
        while place & 1:
            root = node_hash(self.peaks.pop(), root)
            place >>= 1
        self.peaks.append(root)
        self.size += 1 << level

    def root(self) -> bytes:
        """Return the root of the whole tree."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            root = node_hash(peak, root)
        return root


def _split(count: int) -> int:
    """Return the largest power of two below a count of at least two."""
    return 1 << (count - 1).bit_length() - 1


def frontier_at(node: Node, size: int) -> Frontier:
    """Return what an appender would hold at a size."""
    peaks, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            peaks.append(node(level, start >> level))
            start += 1 << level
    return Frontier(size, peaks)


def range_root(node: Node, start: int, stop: int) -> bytes:
    """Return the root over leaves start to stop-1, where start is a multiple of a power of two not below the count."""
    count = stop - start
    if count == 0:
        return EMPTY_ROOT
    peaks = []
    while count:
        level = count.bit_length() - 1
        peaks.append(node(level, start >> level))
        start += 1 << level
        count -= 1 << level
    root = peaks.pop()
    while peaks:
        root = node_hash(peaks.pop(), root)
    return root


def inclusion_proof(node: Node, index: int, size: int) -> list[bytes]:
    """Return the path from a leaf to the root of the tree of the first ``size`` leaves, the leaf's sibling first."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    start, stop, path = 0, size, []
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(range_root(node, middle, stop))
            stop = middle
        else:
            path.append(range_root(node, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(node: Node, old: int, new: int) -> list[bytes]:
    """Return what shows that the tree of ``new`` leaves begins with the tree of ``old``; empty for 0 and for equals."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not extend one of {old}")
    if old in (0, new):
        return []
    start, stop, path = 0, new, []
    whole = True
    while old != stop:
        middle = start + _split(stop - start)
        if old <= middle:
            path.append(range_root(node, middle, stop))
            stop = middle
        else:
            path.append(range_root(node, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(range_root(node, start, stop))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether the proof leads from a leaf's hash to the root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or any(len(step) != 32 for step in proof):
        return False
    place, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(step, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether the proof shows that the newer tree begins with the older one (RFC 9162, 2.1.4.2)."""
    if not 0 <= old <= new or any(len(step) != 32 for step in proof):
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    steps = list(proof) if old & (old - 1) else [old_root, *proof]
    if not steps:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, step)
        place, last = place >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root
