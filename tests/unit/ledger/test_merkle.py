"""The Merkle tree against a second implementation, written from RFC 9162 with nothing in common but SHA-256."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.errors import LedgerError
from meshflow.ledger.format.log import TILE, Log, Nodes, Tile
from meshflow.ledger.format.merkle import (
    EMPTY_ROOT,
    Frontier,
    complete_root,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    range_root,
    verify_consistency,
    verify_inclusion,
)

DATA = [hashlib.sha256(str(number).encode()).digest() for number in range(700)]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@cache
def naive(start: int, stop: int) -> bytes:
    """MTH of 2.1.1."""
    if stop == start:
        return sha(b"")
    if stop - start == 1:
        return sha(b"\x00" + DATA[start])
    k = 1
    while k * 2 < stop - start:
        k *= 2
    return sha(b"\x01" + naive(start, start + k) + naive(start + k, stop))


def naive_path(index: int, start: int, stop: int) -> list[bytes]:
    """PATH of 2.1.3.1."""
    if stop - start == 1:
        return []
    k = 1
    while k * 2 < stop - start:
        k *= 2
    if index < k:
        return [*naive_path(index, start, start + k), naive(start + k, stop)]
    return [*naive_path(index - k, start + k, stop), naive(start, start + k)]


def naive_subproof(old: int, start: int, stop: int, whole: bool) -> list[bytes]:
    """SUBPROOF of 2.1.4.1."""
    if old == stop - start:
        return [] if whole else [naive(start, stop)]
    k = 1
    while k * 2 < stop - start:
        k *= 2
    if old <= k:
        return [*naive_subproof(old, start, start + k, whole), naive(start + k, stop)]
    return [*naive_subproof(old - k, start + k, stop, False), naive(start, start + k)]


def node(level: int, index: int) -> bytes:
    return naive(index << level, (index + 1) << level)


def test_known_roots() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    # The eight leaves of the test vectors that Certificate Transparency implementations share.
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf_hash(bytes.fromhex(leaf)))
    assert frontier.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_the_root_at_every_size() -> None:
    frontier = Frontier()
    for size in range(400):
        assert frontier.root() == naive(0, size) == range_root(node, 0, size)
        again = Frontier.from_bytes(size, frontier.to_bytes())
        assert (again.size, again.peaks) == (size, frontier.peaks)
        frontier.append(leaf_hash(DATA[size]))


@pytest.mark.parametrize("size", range(1, 201))
def test_inclusion_of_every_leaf_at_every_size(size: int) -> None:
    root = naive(0, size)
    for index in range(size):
        proof = inclusion_proof(node, index, size)
        assert proof == naive_path(index, 0, size)
        leaf = leaf_hash(DATA[index])
        assert verify_inclusion(leaf, index, size, proof, root)
        assert not verify_inclusion(leaf_hash(DATA[index + 1]), index, size, proof, root)
        assert not verify_inclusion(leaf, index, size, proof, naive(0, size + 1))
        if size > 1:
            assert not verify_inclusion(leaf, index ^ 1 if index ^ 1 < size else index - 1, size, proof, root)
            assert not verify_inclusion(leaf, index, size, proof[:-1], root)
            assert not verify_inclusion(leaf, index, size, [*proof[:-1], bytes(32)], root)
        assert not verify_inclusion(leaf, index, size, [*proof, bytes(32)], root)


def test_consistency_of_every_pair_of_sizes() -> None:
    for new in range(65):
        for old in range(new + 1):
            proof = consistency_proof(node, old, new)
            assert proof == ([] if old in (0, new) else naive_subproof(old, 0, new, True))
            old_root, new_root = naive(0, old), naive(0, new)
            assert verify_consistency(old, new, old_root, new_root, proof)
            assert not verify_consistency(old, new, bytes(32), new_root, proof)
            assert not verify_consistency(old, new, old_root, new_root, [*proof, bytes(32)])
            if 0 < old < new:
                assert not verify_consistency(old, new, old_root, bytes(32), proof)
                assert not verify_consistency(old, new, old_root, new_root, proof[:-1])
                for place in range(len(proof)):
                    changed = [*proof[:place], bytes(32), *proof[place + 1 :]]
                    assert not verify_consistency(old, new, old_root, new_root, changed)


def test_what_is_out_of_range_is_refused() -> None:
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="not in a tree"):
            inclusion_proof(node, index, size)
        assert not verify_inclusion(bytes(32), index, size, [], bytes(32))
    for old, new in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="does not extend"):
            consistency_proof(node, old, new)
        assert not verify_consistency(old, new, bytes(32), bytes(32), [])
    assert not verify_inclusion(leaf_hash(DATA[0]), 0, 2, [b"short"], naive(0, 2))
    assert not verify_consistency(1, 2, naive(0, 1), naive(0, 2), [b"short"])
    for size, data in ((3, bytes(32)), (1, bytes(31))):
        with pytest.raises(ValueError, match=r"peaks|32 bytes"):
            Frontier.from_bytes(size, data)


class Storage:
    """What a store keeps: entry hashes and full tiles."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self.tiles: dict[tuple[int, int], Tile] = {}
        self.frontier = Frontier()

    def recall(self, level: int, start: int, stop: int) -> list[bytes]:
        if level == 0:
            return [leaf_hash(data) for data in self.hashes[start:stop]]
        return [self.tiles[level - 1, place].root for place in range(start, stop) if (level - 1, place) in self.tiles]

    def append(self, hashes: list[bytes], log: Log | None = None) -> Log:
        log = log or Log(Frontier.from_bytes(self.frontier.size, self.frontier.to_bytes()), self.recall)
        tiles = log.extend(hashes)
        self.hashes += hashes
        self.tiles |= {(tile.level, tile.position): tile for tile in tiles}
        self.frontier = log.frontier
        return log


@given(st.lists(st.tuples(st.integers(1, 120), st.booleans()), max_size=12))
def test_a_log_is_the_same_however_it_was_written(parts: list[tuple[int, bool]]) -> None:
    storage, log, at = Storage(), None, 0
    for count, reopened in parts:
        count = min(count, len(DATA) - at)
        log = storage.append(DATA[at : at + count], None if reopened else log)
        at += count
    assert storage.frontier.root() == naive(0, at)
    assert sorted(storage.tiles) == [(0, place) for place in range(at // TILE)]
    nodes = Nodes(storage.recall)
    assert range_root(nodes, 0, at) == naive(0, at)
    if at:
        index = at * 2 // 3
        assert inclusion_proof(nodes, index, at) == naive_path(index, 0, at)


def test_tiles_of_tiles_hold_the_tree_beyond_65536() -> None:
    storage, size = Storage(), TILE * TILE + 3 * TILE + 5
    data = [number.to_bytes(32, "big") for number in range(size)]
    for at in range(0, size, 10_007):
        storage.append(data[at : at + 10_007])
    frontier = Frontier()
    for leaf in data:
        frontier.append(leaf_hash(leaf))
    assert storage.frontier.root() == frontier.root()
    assert storage.tiles[1, 0].root == complete_root([storage.tiles[0, place].root for place in range(TILE)])
    nodes = Nodes(storage.recall)
    for index in (0, 65_535, 65_536, size - 1):
        proof = inclusion_proof(nodes, index, size)
        assert verify_inclusion(leaf_hash(data[index]), index, size, proof, frontier.root())
    old = Frontier()
    for leaf in data[:65_700]:
        old.append(leaf_hash(leaf))
    proof = consistency_proof(nodes, 65_700, size)
    assert verify_consistency(65_700, size, old.root(), frontier.root(), proof)


def test_a_tile_that_does_not_match_what_was_appended_is_refused() -> None:
    storage = Storage()
    storage.append(DATA[:200])
    storage.hashes[7] = bytes(32)
    with pytest.raises(LedgerError, match="not those that its log holds"):
        storage.append(DATA[200:300])
    storage.hashes[100:] = []
    with pytest.raises(LedgerError, match="lacks hashes"):
        storage.append(DATA[200:300])
    with pytest.raises(LedgerError, match="lacks hash"):
        range_root(Nodes(storage.recall), 0, 200)


def test_a_node_is_told_from_a_leaf() -> None:
    assert leaf_hash(DATA[0] + DATA[1]) != node_hash(DATA[0], DATA[1])
