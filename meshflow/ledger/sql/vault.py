"""Encrypted payloads: sealed on their way into the tables, and their keys made and shredded."""

from __future__ import annotations

import os
from collections.abc import Sequence

from meshflow.errors import ConfigError
from meshflow.ledger.format.entry import Draft, Written
from meshflow.ledger.format.payload import payload_value
from meshflow.ledger.shredding import KEY_BYTES, SCOPES, LockedError, WrappingKey, seal_payload, wrapping_key
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.payloads import Opener, label
from meshflow.ledger.sql.subjects import digest, index_key
from meshflow.ledger.writer import Outcome


class Vault:
    """What one ledger object knows of keys. Without a wrapping key it seals nothing, and what is sealed stays so.

    ``source`` names the key, for another process that is to open the same payloads.
    """

    def __init__(self, scope: str = "none", key: WrappingKey | None = None, source: str | None = None) -> None:
        if scope not in SCOPES:
            raise ConfigError(f"{scope!r} is none of {list(SCOPES)}", where="ledger.encrypt")
        if scope != "none" and key is None:
            raise ConfigError("encryption needs a key-encryption key", where="ledger.encrypt")
        self._scope = scope
        self._key = key
        self.source = source

    def opener(self) -> Opener:
        """Return what opens payloads for one thread."""
        return Opener(lambda: self._key)

    def seal(
        self, connection: Connection, drafts: Sequence[Draft], outcomes: Sequence[Outcome], rows: list[object]
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

    def rewrap(self, connection: Connection, new: WrappingKey) -> int:
        """Wrap every data key under another key-encryption key, inside a transaction; return how many there are."""
        if self._key is None:
            raise LockedError("data keys are wrapped anew with the key-encryption key that they are under; give it too")
        rows = connection.execute("SELECT id, scope, name, wrapped FROM keys ORDER BY id").fetchall()
        anew = []
        for key_id, scope, name, wrapped in rows:
            bound = label(scope, name)
            anew.append((new.wrap(self._key.unwrap(wrapped, bound), bound), key_id))
        connection.executemany("UPDATE keys SET wrapped = ? WHERE id = ?", anew)
        return len(anew)

    def rewrapped(self, new: WrappingKey, source: str | None) -> None:
        """Take up the new key, once what is under it is durable."""
        self._key, self.source = new, source

    def _data_key(self, connection: Connection, name: str, at_us: int) -> tuple[int, bytes]:
        """Return the data key of a run or subject, made if there is none; the id tells it from one that was deleted."""
        assert self._key is not None  # noqa: S101 - asked for with a key alone
        bound = label(self._scope, name)
        find = "SELECT id, wrapped FROM keys WHERE scope = ? AND name = ?"
        row = connection.execute(find, (self._scope, name)).fetchone()
        if row is not None:
            return row[0], self._key.unwrap(row[1], bound)
        other = connection.execute("SELECT scope, name, wrapped FROM keys ORDER BY id DESC LIMIT 1").fetchone()
        if other is not None:
            self._key.unwrap(other[2], label(other[0], other[1]))  # refuses a second wrapping key in one ledger
        data_key = os.urandom(KEY_BYTES)
        connection.execute(
            "INSERT INTO keys (scope, name, wrapped, made_us) VALUES (?, ?, ?, ?)",
            (self._scope, name, self._key.wrap(data_key, bound), at_us),
        )
        return connection.execute(find, (self._scope, name)).fetchone()[0], data_key


def _subject(connection: Connection, draft: Draft) -> str:
    """Return the digest of whom an entry belongs to; what is nobody's belongs to its run."""
    for field, _, data in draft.payloads:
        if field in ("principal", "approver"):
            value = payload_value(data)
            name = value if field == "approver" else value.get("subject")
            if isinstance(name, str) and name:
                return digest(index_key(connection), name).hex()
    return "run:" + draft.run_id


def shred(connection: Connection, key_ids: set[int]) -> None:
    """Delete the keys that no payload needs any more."""
    connection.executemany(
        "DELETE FROM keys WHERE id = ? AND NOT EXISTS (SELECT 1 FROM payloads WHERE key_id = keys.id)",
        [(key_id,) for key_id in key_ids],
    )


def vault_of(scope: str, key: str | None) -> Vault:
    """Return the vault that settings name."""
    return Vault(scope, wrapping_key(key) if key is not None else None, key)
