"""The SQLite file: how it is opened, what is in it, and what its errors mean."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from meshflow.errors import LedgerError
from meshflow.ledger.sql.database import EmptyLedgerError, OldSchemaError
from meshflow.ledger.sql.log import create_log, new_origin
from meshflow.ledger.sqlite.migrate import from_version_1, from_version_2, from_version_3
from meshflow.ledger.sqlite.tables import SCHEMA_VERSION, TABLES, run_script

APPLICATION_ID = 0x4D46_4C47  # "MFLG", so that no other database is taken for a ledger


def open_writer(path: Path, busy_timeout_ms: int, origin: str | None = None) -> sqlite3.Connection:
    """Open the file for writing, and make it if it is not there; LedgerError says why it cannot be.

    ``origin`` names the log of a ledger that is being copied here, which must not exist yet.
    """
    deadline = time.monotonic() + busy_timeout_ms / 1_000
    while True:
        try:
            return _open(path, busy_timeout_ms, origin)
        except sqlite3.Error as error:
            # Two processes that switch a new file to WAL at once get "locked" at once, whatever the busy timeout.
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise explain(error, path) from error
            time.sleep(0.01)


def _open(path: Path, busy_timeout_ms: int, origin: str | None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, cached_statements=256, timeout=busy_timeout_ms / 1_000, check_same_thread=False
    )
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            connection.execute("PRAGMA page_size = 8192")
        elif not _is_ledger(connection):
            raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 2000")
        connection.execute("PRAGMA cache_size = -16000")  # each run that is written to has its place in three indexes
        connection.execute("PRAGMA secure_delete = ON")
        _prepare(connection, path, origin)
        connection.execute("PRAGMA busy_timeout = 0")  # from here on whoever begins a transaction waits for the lock
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, origin: str | None) -> None:
    """Create the tables, or bring those of an older version up to date, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check_version(connection, path)
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
            run_script(connection, TABLES)
            create_log(connection, origin or new_origin())
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        elif origin is not None:
            raise LedgerError(f"{path} holds a ledger already; copy into a place that holds nothing")
        elif version == 1:
            from_version_1(connection)
        elif version == 2:
            from_version_2(connection)
        elif version == 3:
            from_version_3(connection)
        if version != SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_ledger(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version, 0 for no ledger yet; LedgerError for a newer one, or for another kind of database."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        return 0
    if not _is_ledger(connection):
        raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger schema {version}, this meshflow knows up to {SCHEMA_VERSION}; upgrade meshflow"
        )
    return version


def reader_uris(path: Path) -> tuple[str, ...]:
    """Return how to open the file for reading: as a live ledger, or, where WAL's files cannot be made, as it lies."""
    base = path.resolve().as_uri()
    return (f"{base}?mode=ro",) if _has_wal(path) else (f"{base}?mode=ro", f"{base}?mode=ro&immutable=1")


def _has_wal(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def open_reader(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """Open the file for reading only; LedgerError says why it cannot be."""
    failure: sqlite3.Error | None = None
    for uri in reader_uris(path):
        connection = None
        try:
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, timeout=busy_timeout_ms / 1_000, check_same_thread=False
            )
            if version := check_version(connection, path):
                if version < SCHEMA_VERSION:
                    raise OldSchemaError(f"{path} has ledger schema {version}; open it once for writing")
                return connection
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
            raise EmptyLedgerError(f"{path} holds nothing yet")
        except sqlite3.Error as error:
            failure = error
            if connection is not None:
                connection.close()
        except LedgerError:
            if connection is not None:
                connection.close()
            raise
    assert failure is not None  # noqa: S101 - the loop runs at least once
    raise explain(failure, path) from failure


def _is_busy(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorname", "") or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


_MEANING = (
    ("SQLITE_FULL", "the disk, or the size that the file may have, is full; free space and write again"),
    ("SQLITE_READONLY", "the file or its folder is read-only; make both writable for this user"),
    ("SQLITE_BUSY", "another process kept the file locked for too long; find it, or raise busy_timeout_ms"),
    ("SQLITE_LOCKED", "another connection kept the file locked for too long"),
    ("SQLITE_CORRUPT", "the file is damaged; keep it as it is, and restore a copy"),
    ("SQLITE_NOTADB", "the file is not a database; choose another path, or restore a copy"),
    ("SQLITE_CANTOPEN", "the file cannot be opened; does its folder exist, and may this user write there?"),
    ("SQLITE_IOERR", "the disk reports an error; nothing of this batch was kept"),
    ("SQLITE_CONSTRAINT", "the file holds rows that its entries do not explain; verify it before writing on"),
    ("SQLITE_PERM", "this user may not open the file"),
)


def explain(error: Exception, path: Path) -> LedgerError:
    """Return what an error of SQLite means to an operator."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    meaning = next((text for prefix, text in _MEANING if name.startswith(prefix)), "SQLite refused the operation")
    return LedgerError(f"ledger {path}: {meaning} ({name}: {error})")
