"""Whether a ledger's file, its tables and the disk under it are as they should be; part of ``ReplayLedger.health``."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from meshflow.ledger.format.findings import Health
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sqlite.tables import SCHEMA_VERSION, TABLES, run_script

_LEAST_FREE = 100 << 20
_LITTLE_FREE = 1 << 30
_LARGE_WAL = 256 << 20


def file_health(path: Path, connection: Connection) -> list[Health]:
    """Look at a file without changing it."""
    return [
        Health("ok", "schema", f"version {SCHEMA_VERSION}"),
        _triggers(connection),
        _secure_delete(path),
        _wal(path),
        _disk(path),
    ]


def _triggers(connection: Connection) -> Health:
    """Compare what makes the tables append-only with what the schema has."""
    query = "SELECT name, replace(sql, '\"', '') FROM sqlite_schema WHERE type = 'trigger'"
    fresh = sqlite3.connect(":memory:")
    try:
        run_script(fresh, TABLES)
        wanted = dict(fresh.execute(query))
    finally:
        fresh.close()
    have = dict(connection.execute(query).fetchall())
    wrong = sorted(name for name in wanted.keys() | have.keys() if wanted.get(name) != have.get(name))
    if wrong:
        return Health(
            "error", "append_only",
            f"triggers are missing, changed or added: {', '.join(wrong)}; somebody altered the schema, so verify",
        )  # fmt: skip
    return Health("ok", "append_only", f"{len(wanted)} triggers refuse changes")


def _secure_delete(path: Path) -> Health:
    """Ask this build of SQLite whether it overwrites what is deleted; each writer turns that on for itself."""
    connection = sqlite3.connect(":memory:")
    try:
        (level,) = connection.execute("PRAGMA secure_delete = ON").fetchone()
    finally:
        connection.close()
    if level == 1:
        return Health("ok", "secure_delete", "what is erased is overwritten")
    return Health(
        "error", "secure_delete", f"this SQLite does not overwrite what it deletes; erased data stays in {path}"
    )


def _wal(path: Path) -> Health:
    wal = path.with_name(path.name + "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > _LARGE_WAL:
        return Health(
            "warning",
            "wal",
            f"{wal.name} has {size >> 20} MiB: a reader that never ends keeps it from being written back",
        )
    return Health("ok", "wal", f"{size >> 10} KiB wait to be written back")


def _disk(path: Path) -> Health:
    free = shutil.disk_usage(path.parent).free
    level = "error" if free < _LEAST_FREE else "warning" if free < _LITTLE_FREE else "ok"
    return Health(level, "disk", f"{free >> 20:,} MiB are free")
