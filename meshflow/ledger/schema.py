"""The SQLite file: its tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from meshflow.errors import LedgerError

APPLICATION_ID = 0x4D46_4C47  # "MFLG", so that no other database is taken for a ledger
SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE entries (
  id INTEGER PRIMARY KEY,  -- place in the ledger, from 1 without gaps
  run_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  step_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  tenant_id TEXT NOT NULL,
  node_id TEXT,
  verdict TEXT,
  code TEXT,
  cost_micro_usd INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  started_us INTEGER NOT NULL,
  duration_ns INTEGER NOT NULL,
  approval_id TEXT,
  prev_hash BLOB NOT NULL,
  entry_hash BLOB NOT NULL,
  body BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_place ON entries (run_id, seq);
CREATE UNIQUE INDEX entries_key ON entries (run_id, step_id, attempt, kind);
CREATE INDEX entries_approval ON entries (approval_id) WHERE approval_id IS NOT NULL;
CREATE INDEX entries_close ON entries (run_id) WHERE kind = 'close';
CREATE INDEX entries_erasure ON entries (run_id) WHERE kind = 'erasure';
CREATE TABLE payloads (
  id INTEGER PRIMARY KEY,  -- the entry's id times 16, plus the field's number
  salt BLOB NOT NULL,
  data BLOB NOT NULL
);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  first_seq INTEGER NOT NULL  -- the tenant's first entry in the run; 0 for whoever began it
);
CREATE UNIQUE INDEX runs_key ON runs (run_id, tenant_id);
CREATE INDEX runs_tenant ON runs (tenant_id, id);
CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER runs_update BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER runs_delete BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER payloads_update BEFORE UPDATE ON payloads BEGIN SELECT RAISE(ABORT, 'payloads never change'); END;
CREATE TRIGGER payloads_delete BEFORE DELETE ON payloads
WHEN NOT EXISTS (
  SELECT 1 FROM entries mine JOIN entries other ON other.run_id = mine.run_id
  WHERE mine.id = OLD.id / 16 AND other.kind = 'erasure'
)
BEGIN SELECT RAISE(ABORT, 'a payload goes only with an erasure entry'); END;
"""


class EmptyFileError(LedgerError):
    """The file is there and holds nothing, as while another process makes the ledger; it reads as an empty one."""


def open_writer(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """Open the file for writing, and make it if it is not there; LedgerError says why it cannot be."""
    deadline = time.monotonic() + busy_timeout_ms / 1_000
    while True:
        try:
            return _open(path, busy_timeout_ms)
        except sqlite3.Error as error:
            # Two processes that switch a new file to WAL at once get "locked" at once, whatever the busy timeout.
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise explain(error, path) from error
            time.sleep(0.01)


def _open(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
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
        connection.execute("PRAGMA secure_delete = ON")
        _prepare(connection, path)
        connection.execute("PRAGMA busy_timeout = 0")  # from here on whoever begins a transaction waits for the lock
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in one transaction, or check that they are those of this version."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not check_version(connection, path):
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
            for statement in _statements(_TABLES):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """Split a script, since ``executescript`` would commit the transaction first."""
    statements, lines = [], []
    for line in script.strip().splitlines():
        lines.append(line)
        if sqlite3.complete_statement(statement := "\n".join(lines)):
            statements.append(statement)
            lines = []
    return statements


def _is_ledger(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID)


def check_version(connection: sqlite3.Connection, path: Path) -> bool:
    """Say whether the file holds a ledger already; LedgerError for a newer one, or for another kind of database."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        return False
    if not _is_ledger(connection):
        raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger schema {version}, this meshflow knows up to {SCHEMA_VERSION}; upgrade meshflow"
        )
    return True


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
            if check_version(connection, path):
                return connection
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise LedgerError(f"{path} is a database, but not a meshflow ledger; choose another path")
            raise EmptyFileError(f"{path} holds nothing yet")
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


def explain(error: sqlite3.Error, path: Path) -> LedgerError:
    """Return what an error of SQLite means to an operator."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    meaning = next((text for prefix, text in _MEANING if name.startswith(prefix)), "SQLite refused the operation")
    return LedgerError(f"ledger {path}: {meaning} ({name}: {error})")
