"""The hashes that hold a run together.

Every field is framed by its length, so that no two different entries have the same bytes to hash::

    field(x)      = u64 big-endian length of x || x
    genesis_hash  = SHA-256("meshflow/genesis/v1" 0x00 || field(run_id))
    entry_hash    = SHA-256("meshflow/entry/v1"   0x00 || field(run_id) || u64(seq) || field(prev_hash) || field(body))
    commitment    = SHA-256("meshflow/payload/v1" 0x00 || salt || payload)

``run_id`` is UTF-8, ``seq`` counts from 0 and is big-endian, ``prev_hash`` is the hash of the entry before (32 bytes)
or, for seq 0, the genesis hash of the run. ``body`` is the canonical bytes as stored. ``salt`` is always 16 random
bytes, so it needs no length; which field a commitment covers is said by the body that holds it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any

ENTRY_TAG = b"meshflow/entry/v1\x00"
GENESIS_TAG = b"meshflow/genesis/v1\x00"
PAYLOAD_TAG = b"meshflow/payload/v1\x00"
SALT_BYTES = 16
_COPIED = 4_096
"""Below this a copy of the payload costs less than a second call."""

_LENGTH = struct.Struct(">Q").pack
SEQ_AND_PREV = struct.Struct(">QQ32sQ").pack


def genesis_hash(run_id: str) -> bytes:
    """Return the hash that the first entry of a run follows."""
    name = run_id.encode()
    return sha256(GENESIS_TAG + _LENGTH(len(name)) + name).digest()


def entry_hash(run_id: str, seq: int, prev_hash: bytes, body: bytes) -> bytes:
    """Return the hash of an entry; ValueError unless ``prev_hash`` has 32 bytes."""
    return next_hash(run_head(run_id), seq, prev_hash, body)


def run_head(run_id: str) -> bytes:
    """Return the bytes with which what is hashed of every entry of a run begins."""
    name = run_id.encode()
    return ENTRY_TAG + _LENGTH(len(name)) + name


def next_hash(head: bytes, seq: int, prev_hash: bytes, body: bytes) -> bytes:
    """Return the hash of an entry of the run with that head; ValueError unless ``prev_hash`` has 32 bytes."""
    if len(prev_hash) != 32:
        raise ValueError(f"prev_hash has {len(prev_hash)} bytes, not 32")
    return sha256(head + SEQ_AND_PREV(seq, 32, prev_hash, len(body)) + body).digest()


def entry_hashes(run_id: str) -> Callable[[], Any]:
    """Return what begins the hash of each entry of a run, for many of them: then come ``SEQ_AND_PREV`` and the body."""
    begin: Callable[[], Any] = sha256(run_head(run_id)).copy
    return begin


def commitment(salt: bytes, payload: bytes) -> str:
    """Return the commitment to a payload in hexadecimal; ValueError unless the salt has 16 bytes."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {len(salt)} bytes, not {SALT_BYTES}")
    if len(payload) < _COPIED:
        return sha256(PAYLOAD_TAG + salt + payload).hexdigest()
    digest = sha256(PAYLOAD_TAG + salt)
    digest.update(payload)
    return digest.hexdigest()
