"""From what names a ledger to its store: the path of a SQLite file, or the URL of a PostgreSQL database."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.ledger.sql.database import Database

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_POSTGRES = ("postgresql", "postgres")


@dataclass(frozen=True, slots=True)
class Location:
    """A database, the path beside which its signing key lies by default, and how to clean up what only we use."""

    database: Database
    beside: Path
    path: Path | None = None
    cleanup: Callable[[], None] | None = None


def locate(location: str | Path, *, busy_timeout_ms: int = 15_000, tenant: str | None = None) -> Location:
    """Return what a location names, without opening it; ConfigError does not repeat what may hold a password."""
    text = str(location)
    if not text:
        raise ConfigError(
            "the location of a ledger is the path of a SQLite file or a postgresql:// URL", where="ReplayLedger"
        )
    if scheme := _SCHEME.match(text):
        if scheme[1].lower() not in _POSTGRES:
            raise ConfigError(
                f"{scheme[1]}:// is no place for a ledger; give the path of a SQLite file, such as meshflow_runs.db, "
                "or a postgresql:// URL",
                where="ReplayLedger",
            )
        from meshflow.ledger.postgres.address import Address
        from meshflow.ledger.postgres.database import PostgresDatabase

        address = Address(text)
        database = PostgresDatabase(address, busy_timeout_ms=busy_timeout_ms, tenant=tenant)
        return Location(database, address.key_base)
    from meshflow.ledger.sqlite.database import SqliteDatabase

    if text == ":memory:":
        folder = tempfile.mkdtemp(prefix="meshflow-ledger-")
        path = Path(folder) / "ledger.db"
        return Location(SqliteDatabase(path, busy_timeout_ms), path, path, partial(rmtree, folder, ignore_errors=True))
    path = Path(location)
    if not path.name:
        raise ConfigError(f"{text} is a folder; a ledger is a file, such as meshflow_runs.db", where="ReplayLedger")
    return Location(SqliteDatabase(path, busy_timeout_ms), path, path)


def is_url(location: str | Path) -> bool:
    """Say whether a location is the URL of a server rather than the path of a file."""
    return _SCHEME.match(str(location)) is not None
