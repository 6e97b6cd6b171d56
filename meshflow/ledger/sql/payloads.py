"""Payloads as they are fetched: in the clear, or encrypted under a key that the row brings along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from meshflow.ledger.format.chain import SALT_BYTES
from meshflow.ledger.format.entry import FIELDS, StoredEntry
from meshflow.ledger.shredding import LockedError, WrappingKey, open_payload
from meshflow.ledger.sql.database import Connection

PAYLOAD = "p.id, p.salt, p.data, p.key_id, k.scope, k.name, k.wrapped"
"""What ``Opener`` needs of a payload ``p`` that is joined with KEY; a row that has it last."""
KEY = "LEFT JOIN keys k ON k.id = p.key_id"
_IN_THE_CLEAR = "p.id, p.salt, p.data, NULL, NULL, NULL, NULL"

_KEYS_KEPT = 10_000
_GARBLED = (b"?" * SALT_BYTES, b"null")
"""What a payload reads as that is not what was sealed: as one that nobody committed to."""


class Opener:
    """Opens payloads as they were fetched. Used by one thread at a time; ids of keys are never used twice."""

    def __init__(self, key: Callable[[], WrappingKey | None]) -> None:
        self._key = key
        self._kept: dict[int, bytes] = {}

    def open(
        self, payload_id: int, salt: Any, data: Any, key_id: Any, scope: Any, name: Any, wrapped: Any
    ) -> tuple[Any, Any] | None:
        """Return salt and data in the clear; None where the key was shredded, LockedError where it was not given."""
        if key_id is None:
            return salt, data
        if wrapped is None:
            return None
        data_key = self._kept.get(key_id) or self._unwrap(key_id, scope, name, wrapped)
        return (open_payload(data_key, payload_id, data) if isinstance(data, bytes) else None) or _GARBLED

    def _unwrap(self, key_id: int, scope: str, name: str, wrapped: bytes) -> bytes:
        key = self._key()
        if key is None:
            raise LockedError(
                "the payloads are encrypted, and no key-encryption key was given; give the key that this ledger was "
                "written with"
            )
        if len(self._kept) >= _KEYS_KEPT:
            self._kept.clear()
        self._kept[key_id] = data_key = key.unwrap(wrapped, label(scope, name))
        return data_key

    def open_rows(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """Yield rows that end in PAYLOAD with salt and data in the clear; of those shredded id, salt and data are None.

        Rows that were in the clear already are handed on as they are.
        """
        for row in rows:
            if row[-4] is None:
                yield row
                continue
            opened = self.open(*row[-7:])
            payload = (None, None, None) if opened is None else (row[-7], *opened)
            yield (*row[:-7], *payload, None, None, None, None)


def encrypts(connection: Connection) -> bool:
    """Say whether any payload is encrypted."""
    return connection.execute("SELECT 1 FROM payloads WHERE key_id IS NOT NULL LIMIT 1").fetchone() is not None


def suited(connection: Connection, sql: str) -> str:
    """Return a statement without its join for keys where nothing is encrypted, which a long read feels."""
    if encrypts(connection):
        return sql
    return sql.replace(PAYLOAD, _IN_THE_CLEAR).replace(KEY, "")


def label(scope: str, name: str) -> bytes:
    """Return what a wrapped key is bound to."""
    return scope.encode() + b"\x00" + name.encode()


def grouped(rows: Iterable[Sequence[Any]]) -> Iterator[StoredEntry]:
    """Turn one row a payload, as ``open_rows`` leaves it, into one entry each.

    A row is run, seq, prev_hash, entry_hash, body, step index and id of the entry, then PAYLOAD.
    """
    entry: StoredEntry | None = None
    payloads: dict[str, tuple[bytes, bytes]] = {}
    for run_id, seq, prev, digest, body, index, entry_id, payload_id, salt, data, _, _, _, _ in rows:
        if entry is None or entry.position != entry_id - 1:
            if entry is not None:
                yield entry
            payloads = {}
            entry = StoredEntry(run_id, seq, prev, digest, body, payloads, index, entry_id - 1)
        if payload_id is not None and payload_id % 16 < len(FIELDS):
            payloads[FIELDS[payload_id % 16]] = (salt, data)
    if entry is not None:
        yield entry
