"""The log of a ledger in a database: its row, its tiles, and what the entries say of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from meshflow.errors import LedgerError
from meshflow.ledger.format.log import Log, Recall, Tile
from meshflow.ledger.format.merkle import Frontier, leaf_hash
from meshflow.ledger.sql.database import Connection

_CHUNK = 4_096


def new_origin() -> str:
    """Return a name for a log that no other log has."""
    return f"meshflow.local/{uuid.uuid4().hex}"


def create_log(connection: Connection, origin: str) -> None:
    """Put in the empty log."""
    connection.execute("INSERT INTO log VALUES (1, ?, 0, ?)", (origin, b""))


def recall_from(connection: Connection) -> Recall:
    """Return how to fetch stored hashes of the log."""

    def recall(level: int, start: int, stop: int) -> list[bytes]:
        if level == 0:
            if start % 256 == 0:
                row = connection.execute(
                    "SELECT hashes FROM tiles WHERE level = 0 AND position = ?", (start // 256,)
                ).fetchone()
                if row is not None:
                    hashes = _sound(row[0], 256 * 32)
                    return [hashes[at : at + 32] for at in range(0, 32 * (stop - start), 32)]
            rows = connection.execute(
                "SELECT entry_hash FROM entries WHERE id > ? AND id <= ? ORDER BY id", (start, stop)
            ).fetchall()
            return [leaf_hash(_sound(row[0], 32)) for row in rows]
        rows = connection.execute(
            "SELECT root FROM tiles WHERE level = ? AND position >= ? AND position < ? ORDER BY position",
            (level - 1, start, stop),
        ).fetchall()
        return [_sound(row[0], 32) for row in rows]

    return recall


def _sound(data: object, length: int) -> bytes:
    if not isinstance(data, bytes) or len(data) != length:
        raise LedgerError("what is stored of the log, or an entry hash, has not the form of a hash")
    return data


def load_log(connection: Connection) -> tuple[str, Log]:
    """Return the log's origin and the log as it stands; LedgerError when its row makes no sense."""
    row = connection.execute("SELECT origin, size, frontier FROM log").fetchone()
    try:
        origin, size, frontier = row
        return origin, Log(Frontier.from_bytes(size, frontier), recall_from(connection))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"the state of the log is damaged ({error}); verify the ledger") from error


def save_log(connection: Connection, log: Log, tiles: Sequence[Tile]) -> None:
    """Store what has been appended since it was loaded."""
    if tiles:
        connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", tiles)
    connection.execute("UPDATE log SET size = ?, frontier = ?", (log.size, log.frontier.to_bytes()))


def build_log(connection: Connection) -> None:
    """Append every entry that the log does not hold yet."""
    _, log = load_log(connection)
    rows = connection.execute("SELECT entry_hash FROM entries WHERE id > ? ORDER BY id", (log.size,))
    while chunk := rows.fetchmany(_CHUNK):
        save_log(connection, log, log.extend([row[0] for row in chunk]))
