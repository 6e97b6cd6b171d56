"""What anchors gave back for checkpoints, and which of them fail: kept to be shown, and never believed by itself."""

from __future__ import annotations

from typing import Any

from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection

_COLUMNS = ("anchor", "size", "at_us", "place", "note", "token")
_FAILURES = ("anchor", "since_us", "at_us", "failures", "problem")
_MOST_COSIGNED = 1_000


def keep_receipt(appender: SqlAppender, anchor: str, size: int, place: str, note: str, token: str, at_us: int) -> None:
    """Keep what an anchor gave back, and forget that it failed before; the last one of a size counts."""

    def work(connection: Connection) -> None:
        connection.execute("DELETE FROM receipts WHERE anchor = ? AND size = ?", (anchor, size))
        connection.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?)", (anchor, size, at_us, place, note, token))
        connection.execute("DELETE FROM anchor_failures WHERE anchor = ?", (anchor,))

    appender.transact(work)


def keep_failure(appender: SqlAppender, anchor: str, problem: str, at_us: int) -> None:
    """Keep that an anchor took no checkpoint, since when, and why the last time."""

    def work(connection: Connection) -> None:
        row = connection.execute(
            "SELECT since_us, failures FROM anchor_failures WHERE anchor = ?", (anchor,)
        ).fetchone()
        since_us, failures = row or (at_us, 0)
        connection.execute("DELETE FROM anchor_failures WHERE anchor = ?", (anchor,))
        connection.execute(
            "INSERT INTO anchor_failures VALUES (?, ?, ?, ?, ?)", (anchor, since_us, at_us, failures + 1, problem)
        )

    appender.transact(work)


def receipts(connection: Connection) -> list[dict[str, Any]]:
    """Return the newest receipt of each anchor."""
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM receipts r "  # noqa: S608 - our own columns
        "WHERE size = (SELECT max(size) FROM receipts WHERE anchor = r.anchor) ORDER BY anchor"
    )
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows.fetchall()]


def failures(connection: Connection) -> list[dict[str, Any]]:
    """Return the anchors that failed the last time."""
    rows = connection.execute(f"SELECT {', '.join(_FAILURES)} FROM anchor_failures ORDER BY anchor")  # noqa: S608
    return [dict(zip(_FAILURES, row, strict=True)) for row in rows.fetchall()]


def cosigned(connection: Connection) -> list[str]:
    """Return the newest checkpoints that witnesses cosigned."""
    rows = connection.execute(
        "SELECT note FROM receipts WHERE note <> '' ORDER BY size DESC, anchor LIMIT ?", (_MOST_COSIGNED,)
    )
    return [row[0] for row in rows.fetchall()]
