"""Which entries are whose, by keyed digest: an index made from the payloads when needed, and erased with them."""

from __future__ import annotations

import hmac
import os
from typing import Any

from meshflow.ledger.format.entry import FIELD_NUMBER
from meshflow.ledger.format.payload import payload_value
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, Opener

PRINCIPAL, APPROVER = FIELD_NUMBER["principal"], FIELD_NUMBER["approver"]
_CHUNK = 4_096
_NAMING = f"SELECT {PAYLOAD} FROM payloads p {KEY} WHERE p.id BETWEEN ? AND ? AND p.id % 16 IN (?, ?)"  # noqa: S608


def index_key(connection: Connection) -> bytes:
    """Return the secret key of the digests, made on first use; inside a transaction."""
    row = connection.execute("SELECT key FROM subject_index").fetchone()
    if row is None:
        row = (os.urandom(32),)
        connection.execute("INSERT INTO subject_index VALUES (1, ?, 0)", row)
    return bytes(row[0])


def digest(key: bytes, subject: str) -> bytes:
    """Return what stands for a person or an agent."""
    return hmac.digest(key, subject.encode(), "sha256")[:16]


def names_in(field_number: int, data: bytes) -> set[str]:
    """Return the people and agents that a payload names."""
    value = payload_value(data)
    found: list[Any] = [value] if field_number == APPROVER else [value.get("subject"), value.get("agent_id")]
    return {name for name in found if isinstance(name, str) and name}


def catch_up(connection: Connection, opener: Opener, limit: int | None = None) -> bool:
    """Index what was written since the last time, at most ``limit`` entries; True when nothing is left to index."""
    key = index_key(connection)
    last: int = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
    upto: int = connection.execute("SELECT upto FROM subject_index").fetchone()[0]
    stop = last if limit is None else min(last, upto + limit)
    while upto < stop:
        chunk = min(stop, upto + _CHUNK)
        rows = connection.execute(_NAMING, ((upto + 1) * 16, chunk * 16 + 15, PRINCIPAL, APPROVER)).fetchall()
        found = {
            (digest(key, name), id_ // 16)
            for id_, _, data, *_ in opener.open_rows(rows)
            if id_ is not None
            for name in names_in(id_ % 16, data)
        }
        connection.executemany("INSERT INTO subjects VALUES (?, ?) ON CONFLICT DO NOTHING", sorted(found))
        upto = chunk
    connection.execute("UPDATE subject_index SET upto = ?", (stop,))
    return stop == last


def forget(connection: Connection, payload_ids: list[int]) -> None:
    """Take entries out of the index whose names are erased."""
    ids = [(one // 16,) for one in payload_ids if one % 16 in (PRINCIPAL, APPROVER)]
    connection.executemany("DELETE FROM subjects WHERE entry_id = ?", ids)
