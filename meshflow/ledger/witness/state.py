"""What a witness remembers: of each log the newest checkpoint that it cosigned, and what it refused.

A SQLite file with ``synchronous=FULL``: once a change is committed it survives a crash of the machine. Comparing and
replacing happen in one transaction that holds the write lock, so that no number of threads and processes can make a
witness go back.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from meshflow.errors import LedgerError

_APPLICATION = 0x4D46_5749  # "MFWI", so that no other database is taken for a witness's
_TABLES = (
    "CREATE TABLE IF NOT EXISTS heads (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, "
    "at_s INTEGER NOT NULL, note TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS refused (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, at_s INTEGER NOT NULL, "
    "head TEXT NOT NULL, note TEXT NOT NULL, UNIQUE (origin, note)) STRICT",
)
_MOST_REFUSED = 1_000


class Head(NamedTuple):
    """The newest checkpoint that was cosigned, with its cosignatures, and when."""

    size: int
    root: bytes
    at_s: int
    note: str


class Refused(NamedTuple):
    """A checkpoint that a log signed and that was not shown to extend the one cosigned of it.

    Two of one size with different roots prove that the log signed two histories; else the proof may have been wrong.
    """

    origin: str
    at_s: int
    head: str
    note: str


class WitnessState:
    """The file, for any number of threads and processes."""

    def __init__(self, path: Path, *, make: bool = True, busy_timeout_ms: int = 10_000) -> None:
        self.path = path
        self._lock = threading.Lock()
        if not make and not path.is_file():
            raise LedgerError(
                f"there is no witness's file at {path}; a witness that has cosigned before must not begin anew, since "
                "it could then be shown another history"
            )
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=busy_timeout_ms / 1_000, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise LedgerError(f"the witness's file {path} cannot be opened: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise LedgerError(f"the witness's file {path} cannot be used: {error}") from error
        except LedgerError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        if not application and self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            application = -1
        if application not in (0, _APPLICATION):
            raise LedgerError(f"{self.path} is a database, but not a witness's; choose another path")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self.changing():
            for table in _TABLES:
                self._connection.execute(table)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the write lock; what the block did is durable once it is left, and undone if it raised."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def head(self, origin: str) -> Head | None:
        """Return the newest checkpoint cosigned of a log; within ``changing`` nobody else changes it."""
        row = self._connection.execute(
            "SELECT size, root, at_s, note FROM heads WHERE origin = ?", (origin,)
        ).fetchone()
        return Head(*row) if row is not None else None

    def put(self, origin: str, head: Head) -> None:
        """Remember a checkpoint; within ``changing``."""
        self._connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?)", (origin, *head))

    def refused(self, one: Refused) -> None:
        """Keep a checkpoint that did not fit, up to some number for each log; within ``changing``."""
        self._connection.execute(
            "INSERT OR IGNORE INTO refused SELECT NULL, ?, ?, ?, ? "
            "WHERE (SELECT count(*) FROM refused WHERE origin = ?) < ?",
            (*one, one.origin, _MOST_REFUSED),
        )

    def heads(self) -> dict[str, Head]:
        """Return the newest checkpoint of each log."""
        with self._lock:
            rows = self._connection.execute("SELECT origin, size, root, at_s, note FROM heads ORDER BY 1").fetchall()
        return {origin: Head(*row) for origin, *row in rows}

    def all_refused(self) -> list[Refused]:
        """Return what was refused, the oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT origin, at_s, head, note FROM refused ORDER BY id").fetchall()
        return [Refused(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
