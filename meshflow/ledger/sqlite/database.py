"""A SQLite file as a database of the ledger: one that writes at a time, and reads that wait for nobody."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.findings import Finding, Health
from meshflow.ledger.sql.database import WRITTEN, Connection, EmptyLedgerError
from meshflow.ledger.sqlite.health import file_health
from meshflow.ledger.sqlite.opening import Opening
from meshflow.ledger.sqlite.schema import explain, open_reader, open_writer
from meshflow.ledger.sqlite.tables import TABLES, run_script

if TYPE_CHECKING:
    from meshflow.ledger.sql.database import Database
    from meshflow.ledger.sqlite.read import Reader

T = TypeVar("T")
# Rows go in by one statement for many, since each statement gives up the GIL and may wait 5 ms to get it back.
_CHUNKS = (512, 256, 128, 64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)
_TRUNCATE_PATIENCE_S = 5.0
_PARTS = ("", "-wal", "-shm")
_log = logging.getLogger("meshflow.ledger")


class SqliteDatabase:
    """A ledger's file; it is opened on first use, and reading never makes it."""

    failures: tuple[type[Exception], ...] = (sqlite3.Error,)
    conflicts: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)

    def __init__(self, path: Path, busy_timeout_ms: int = 15_000) -> None:
        self.name = str(path)
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._place = ""
        self._files: dict[str, tuple[int, int] | None] = {}
        self._size = 0
        self._reader: Reader | None = None
        self._closed = False

    def open_writer(self) -> Connection:
        """Open the file for writing, and make it if it is not there."""
        self._place = os.path.abspath(self._path)  # a later change of folder must not lead elsewhere
        connection = open_writer(self._path, self._busy_timeout_ms)
        found = self._stats()
        self._files = {part: _identity(one) for part, one in found.items()}
        self._size = one.st_size if (one := found[""]) is not None else 0
        return connection

    def make(self, origin: str) -> Connection:
        """Make the file of a ledger that is copied here."""
        return open_writer(self._path, self._busy_timeout_ms, origin)

    def numbered(self, connection: Connection) -> None:
        """SQLite sees to that itself."""

    def begin(self, connection: Connection) -> object:
        """Take the write lock, with short and uneven pauses: SQLite's own back off to 100 ms, and starve."""
        deadline = None
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return connection.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                    raise
                now = time.monotonic()
                deadline = deadline or now + self._busy_timeout_ms / 1_000
                if now >= deadline:
                    raise
                time.sleep(random.uniform(0.0002, 0.004))

    def next_version(self, version: object, size: int) -> object:
        """Return the same: SQLite counts what other connections write."""
        return version

    def commit(self, connection: Connection) -> None:
        """Commit, but not into files that no path leads to any more: the system would let us, and drop them later.

        Nor into one that somebody has cut short: what is in the write-ahead log would be of no use without the rest.
        """
        found = self._stats()
        if changed := [part for part, one in found.items() if _identity(one) != self._files[part]]:
            connection.execute("ROLLBACK")
            self._taken_away(connection, changed)
        size = one.st_size if (one := found[""]) is not None else 0
        if size < self._size:
            self._cut_short(connection, size)
        connection.execute("COMMIT")
        self._size = size

    def _stats(self) -> dict[str, os.stat_result | None]:
        """Return what the system says of the file and of those that belong to it."""
        return {part: _stat(self._place + part) for part in _PARTS}

    def _cut_short(self, connection: Connection, size: int) -> None:
        """Refuse a file that is shorter than it was, unless another program has compacted it."""
        pages, page_size = (connection.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
        if pages * page_size >= self._size:
            raise LedgerError(
                f"ledger {self.name}: the file has been cut short from {self._size} to {size} bytes since it was last "
                "written; keep it as it is, and restore a copy"
            )

    def _taken_away(self, connection: Connection, changed: list[str]) -> NoReturn:
        """Save what the write-ahead log holds, if it was deleted and nobody has begun another; refuse in any case."""
        if "" in changed:
            raise LedgerError(
                f"ledger {self.name}: the file has been deleted, moved or replaced since it was opened; "
                "put it back and open the ledger again"
            )
        if _stat(f"{self._place}-wal") is None:
            # It is open still, so all that was acknowledged can be moved to the file itself.
            connection.execute("PRAGMA wal_checkpoint(FULL)")
            saved = "what was acknowledged has been saved from it"
        else:
            saved = "what was acknowledged last may be lost with it, so keep the files as they are"
        names = " and ".join(Path(self._place + part).name for part in changed)
        raise LedgerError(
            f"ledger {self.name}: {names} has been deleted or replaced while the ledger was open, and belongs to it; "
            f"{saved}. Close the ledger in every process, and open and verify it"
        )

    def insert(self, connection: Connection, table: str, values: Sequence[Any], suffix: str = "") -> None:
        """Insert rows in as few statements of a few sizes as they take."""
        width = len(WRITTEN[table])
        at, left = 0, len(values) // width
        for size in _CHUNKS:
            while left >= size:
                connection.execute(_insertion(table, size, suffix), values[at : at + size * width])
                at += size * width
                left -= size

    def scrub(self, connection: Connection) -> None:
        """Empty the write-ahead log, which carried what was erased, unless a reader keeps it for too long.

        secure_delete has overwritten the pages of the file itself.
        """
        deadline = time.monotonic() + _TRUNCATE_PATIENCE_S
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() >= deadline:
                _log.warning("a reader holds the write-ahead log, so erased bytes may be in it until the next erasure")
                return
            time.sleep(0.01)

    def open_reader(self) -> Connection:
        """Open the file for reading only."""
        return open_reader(self._found(), self._busy_timeout_ms)

    def _found(self) -> Path:
        if not self._path.exists():
            raise EmptyLedgerError(f"{self.name} is not there yet")
        return self._path

    async def connect(self, *, scoped: bool = True) -> Connection:
        """Open the file for reading in a thread; a file keeps no tenants apart."""

        def begun() -> sqlite3.Connection:
            connection = open_reader(self._found(), self._busy_timeout_ms)
            try:
                connection.execute("BEGIN")
            except BaseException:
                connection.close()
                raise
            return connection

        opening = Opening(begun)
        try:
            return await asyncio.to_thread(opening)
        except BaseException:
            opening.give_up()
            raise

    async def fetch(self, sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        """Return the rows of a statement, in the reading connection's thread."""
        return list(await (await self._reading()).execute_fetchall(sql, parameters))

    async def call(self, job: Callable[[Connection], T]) -> T:
        """Run a function in the reading connection's thread."""
        return await (await self._reading()).call(job)

    async def _reading(self) -> Reader:
        if self._reader is None:
            from meshflow.ledger.sqlite.read import Reader  # imports aiosqlite, which only reads need

            path, timeout = self._found(), self._busy_timeout_ms
            await (reader := Reader(lambda: open_reader(path, timeout)))
            if self._reader is None and not self._closed:
                self._reader = reader
            else:
                await reader.close()
        if self._reader is None:
            raise LedgerError("the ledger is closed")
        return self._reader

    def verifiable(self, connection: Connection) -> None:
        """A file hides nothing from whoever opens it."""

    def forgive(self, connection: Connection, error: Exception) -> bool:
        """Read bytes that are no UTF-8 as their numbers: only somebody else can have put them there."""
        if "decode to UTF-8" not in str(error):
            return False
        assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - one of ours
        connection.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
        return True

    def storage_findings(self, connection: Connection) -> list[Finding]:
        """Check the file itself: its pages, indexes against tables, and that the indexes of the schema are there."""
        problems = [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        found = [Finding("storage", f"the file: {problem}") for problem in problems]
        fresh = sqlite3.connect(":memory:")
        try:
            run_script(fresh, TABLES)
            query = "SELECT name, replace(sql, '\"', '') FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
            wanted, have = dict(fresh.execute(query)), dict(connection.execute(query).fetchall())
        finally:
            fresh.close()
        return found + [
            Finding("storage", f"index {name} is not the one of the schema")
            for name, sql in wanted.items()
            if have.get(name) != sql
        ]

    def health(self, connection: Connection) -> list[Health]:
        """Look at the file, its schema and the disk under it."""
        return file_health(self._path, connection)

    def address(self) -> list[Any]:
        """Return path and patience."""
        return [os.path.abspath(self._path), self._busy_timeout_ms]

    def explain(self, error: Exception) -> LedgerError:
        """Return what an error of SQLite means."""
        return explain(error, self._path)

    async def aclose(self) -> None:
        """Close the reading connection."""
        self._closed = True
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()


@cache
def _insertion(table: str, size: int, suffix: str) -> str:
    """Return the statement that inserts so many rows; the same object each time, whose hash is known."""
    columns = WRITTEN[table]
    rows = ", ".join([f"({', '.join('?' * len(columns))})"] * size)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {rows}{suffix}"  # noqa: S608 - our own tables


def _stat(place: str) -> os.stat_result | None:
    try:
        return os.stat(place)
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, int] | None:
    """Return what tells a file from any other, or None where there is none."""
    return None if found is None else (found.st_dev, found.st_ino)


if TYPE_CHECKING:
    _: Database = SqliteDatabase(Path("ledger.db"))
