"""Encrypted payloads in SQLite: sealed on their way in, and opened by a view that readers take for the table."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from meshflow.errors import ConfigError
from meshflow.ledger.format.canonical import payload_value
from meshflow.ledger.format.chain import SALT_BYTES
from meshflow.ledger.format.entry import Draft, Written
from meshflow.ledger.shredding import (
    KEY_BYTES,
    SCOPES,
    LockedError,
    WrappingKey,
    open_payload,
    seal_payload,
    wrapping_key,
)
from meshflow.ledger.sql.subjects import digest, index_key
from meshflow.ledger.sqlite.schema import explain
from meshflow.ledger.writer import Outcome

# The cast keeps an attacker's ill-formed text from failing the statement that would have found it.
_VIEW = (
    "CREATE TEMP VIEW {name} AS SELECT id, "
    "CASE WHEN key_id IS NULL THEN salt ELSE meshflow_salt(id, CAST(data AS BLOB), key_id) END AS salt, "
    "CASE WHEN key_id IS NULL THEN data ELSE meshflow_data(id, CAST(data AS BLOB), key_id) END AS data, key_id "
    "FROM main.payloads"
)
_UNSHREDDED = " WHERE key_id IS NULL OR EXISTS (SELECT 1 FROM main.keys WHERE keys.id = key_id)"
SHREDDED = 0
"""Stands for the salt of a payload whose key was deleted, where one verifies."""

_KEYS_KEPT = 10_000


class Vault:
    """What one ledger object knows of keys. Without a wrapping key it seals nothing, and what is sealed stays so."""

    def __init__(self, scope: str = "none", key: WrappingKey | None = None) -> None:
        if scope not in SCOPES:
            raise ConfigError(f"{scope!r} is none of {list(SCOPES)}", where="ledger.encrypt")
        if scope != "none" and key is None:
            raise ConfigError("encryption needs a key-encryption key", where="ledger.encrypt")
        self._scope = scope
        self._key = key

    def reading(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Have a connection that only reads see payloads in the clear; what cannot be opened fails the statement."""
        return self._attach(connection, "payloads", strict=True)

    def verifying(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Do as ``reading``, but show every row: with NULL for what is locked, and SHREDDED where the key is gone."""
        return self._attach(connection, "payloads", strict=False)

    def writing(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Give a connection that writes a view ``clear_payloads``."""
        return self._attach(connection, "clear_payloads", strict=True)

    def _attach(self, connection: sqlite3.Connection, name: str, *, strict: bool) -> sqlite3.Connection:
        # Of one connection, so that its thread has it alone; ids of keys are never used twice.
        kept: dict[int, bytes] = {}

        def opened(payload_id: int, sealed: bytes, key_id: int) -> tuple[bytes | int | None, bytes | int | None]:
            try:
                if key_id not in kept:
                    row = connection.execute("SELECT scope, name, wrapped FROM keys WHERE id = ?", (key_id,)).fetchone()
                    if row is None:
                        return SHREDDED, SHREDDED
                    if len(kept) >= _KEYS_KEPT:
                        kept.clear()
                    if self._key is None:
                        raise LockedError("payloads are encrypted, and no key-encryption key was given")
                    kept[key_id] = self._key.unwrap(row[2], _label(row[0], row[1]))
            except LockedError:
                if strict:
                    raise
                return None, None
            # What does not open is not what was sealed: it reads as a payload that nobody committed to.
            return open_payload(kept[key_id], payload_id, sealed) or (b"?" * SALT_BYTES, b"null")

        connection.create_function("meshflow_salt", 3, lambda *row: opened(*row)[0])
        connection.create_function("meshflow_data", 3, lambda *row: opened(*row)[1])
        try:
            connection.execute(_VIEW.format(name=name) + (_UNSHREDDED if strict else ""))
        except sqlite3.Error as error:  # a damaged file shows at the first statement
            path = connection.execute("PRAGMA database_list").fetchone()[2]
            connection.close()
            raise explain(error, Path(path)) from error
        return connection

    def seal(
        self, connection: sqlite3.Connection, drafts: Sequence[Draft], outcomes: Sequence[Outcome], rows: list[object]
    ) -> None:
        """Encrypt the rows of payloads that a batch is about to insert, four values each, in place."""
        if self._key is None or self._scope == "none" or not rows:
            return
        by_entry = {
            outcome.position + 1: draft
            for draft, outcome in zip(drafts, outcomes, strict=True)
            if isinstance(outcome, Written)
        }
        keys: dict[str, tuple[int, bytes]] = {}
        for at in range(0, len(rows), 4):
            payload_id, salt, data = rows[at : at + 3]
            draft = by_entry[payload_id // 16]  # type: ignore[operator]
            name = draft.run_id if self._scope == "run" else _subject(connection, draft)
            if name not in keys:
                keys[name] = self._data_key(connection, name, draft.columns[9])
            key_id, data_key = keys[name]
            rows[at + 1 : at + 4] = b"", seal_payload(data_key, payload_id, salt, data), key_id  # type: ignore[arg-type]

    def _data_key(self, connection: sqlite3.Connection, name: str, at_us: int) -> tuple[int, bytes]:
        """Return the data key of a run or subject, made if there is none; the id tells it from one that was deleted."""
        assert self._key is not None  # noqa: S101 - asked for with a key alone
        label = _label(self._scope, name)
        row = connection.execute(
            "SELECT id, wrapped FROM keys WHERE scope = ? AND name = ?", (self._scope, name)
        ).fetchone()
        if row is not None:
            return row[0], self._key.unwrap(row[1], label)
        other = connection.execute("SELECT scope, name, wrapped FROM keys ORDER BY id DESC LIMIT 1").fetchone()
        if other is not None:
            self._key.unwrap(other[2], _label(other[0], other[1]))  # refuses a second wrapping key in one ledger
        data_key = os.urandom(KEY_BYTES)
        cursor = connection.execute(
            "INSERT INTO keys VALUES (NULL, ?, ?, ?, ?)", (self._scope, name, self._key.wrap(data_key, label), at_us)
        )
        return int(cursor.lastrowid or 0), data_key


def _label(scope: str, name: str) -> bytes:
    return scope.encode() + b"\x00" + name.encode()


def _subject(connection: sqlite3.Connection, draft: Draft) -> str:
    """Return the digest of whom an entry belongs to; what is nobody's belongs to its run."""
    for field, _, data in draft.payloads:
        if field in ("principal", "approver"):
            value = payload_value(data)
            name = value if field == "approver" else value.get("subject")
            if isinstance(name, str) and name:
                return digest(index_key(connection), name).hex()
    return "run:" + draft.run_id


def shred(connection: sqlite3.Connection, key_ids: set[int]) -> None:
    """Delete the keys that no payload needs any more."""
    connection.executemany(
        "DELETE FROM keys WHERE id = ? AND NOT EXISTS (SELECT 1 FROM main.payloads WHERE key_id = keys.id)",
        [(key_id,) for key_id in key_ids],
    )


def vault_of(scope: str, key: str | None) -> Vault:
    """Return the vault that settings name."""
    return Vault(scope, wrapping_key(key) if key is not None else None)
