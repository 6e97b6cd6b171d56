from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meshflow.ledger.format.chain import commitment, entry_hash, genesis_hash

NAME = st.text(st.characters(exclude_categories=["Cs"]))
HASH = st.binary(min_size=32, max_size=32)
ENTRY = st.tuples(NAME, st.integers(0, 2**40), HASH, st.binary())


def test_the_entry_hash_is_framed_as_its_docstring_says() -> None:
    run, prev, body = "r\u00fcn".encode(), bytes(range(32)), b'{"a":1}'
    framed = b"meshflow/entry/v1\x00" + len(run).to_bytes(8, "big") + run + (5).to_bytes(8, "big")
    framed += (32).to_bytes(8, "big") + prev + len(body).to_bytes(8, "big") + body
    assert entry_hash("r\u00fcn", 5, prev, body) == hashlib.sha256(framed).digest()


def test_the_genesis_hash_is_bound_to_the_run() -> None:
    assert genesis_hash("a") == hashlib.sha256(b"meshflow/genesis/v1\x00" + bytes(7) + b"\x01a").digest()
    assert genesis_hash("a") != genesis_hash("b")


@given(ENTRY, ENTRY)
def test_different_entries_have_different_hashes(
    one: tuple[str, int, bytes, bytes], two: tuple[str, int, bytes, bytes]
) -> None:
    assume(one != two)
    assert entry_hash(*one) != entry_hash(*two)


@given(NAME, NAME, st.binary())
def test_moving_bytes_between_run_and_body_changes_the_hash(run: str, more: str, body: bytes) -> None:
    assume(more)
    prev = bytes(32)
    assert entry_hash(run + more, 0, prev, body) != entry_hash(run, 0, prev, more.encode() + body)


def test_a_commitment_needs_its_salt() -> None:
    one, two = commitment(bytes(16), b"x"), commitment(b"\x01" + bytes(15), b"x")
    assert one == hashlib.sha256(b"meshflow/payload/v1\x00" + bytes(16) + b"x").hexdigest()
    assert one != two
    with pytest.raises(ValueError, match="16"):
        commitment(b"short", b"x")
    with pytest.raises(ValueError, match="32"):
        entry_hash("r", 0, b"short", b"x")
