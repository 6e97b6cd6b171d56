"""Whole runs out of SQLite, each over a connection of its own at one snapshot, so that other reads do not wait."""

# ruff: noqa: S608 - statements are put together from constants of this module alone

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import orjson

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import FIELD_NUMBER, FIELDS, StoredEntry
from meshflow.ledger.history import RunFilter
from meshflow.ledger.outline import Outline
from meshflow.ledger.sql.append import SqliteAppender
from meshflow.ledger.sql.erase import VISIBLE, WAS_DELETED
from meshflow.ledger.sql.lineage import LINEAGE, Segment, segments
from meshflow.ledger.sqlite.schema import EmptyFileError, OldSchemaError, explain, open_reader

T = TypeVar("T")
_PAGE = 256
_SCOPE = "(:tenant IS NULL OR e.tenant_id = :tenant)"
_OUTPUT = FIELD_NUMBER["output"]
_OUTLINE = (
    "SELECT e.step_index, e.node_id, e.verdict, e.code, e.cost_micro_usd, e.tokens, p.data, "
    # The bytes '"output":"' occur nowhere else in the canonical body of a step: quotes inside texts are escaped.
    'p.id IS NULL AND instr(e.body, CAST(\'"output":"\' AS BLOB)) > 0 '
    f"FROM entries e LEFT JOIN payloads p ON p.id = e.id * 16 + {_OUTPUT} "
    f"WHERE e.run_id = :run AND e.step_index >= :start AND e.step_index < :stop "
    f"AND {_SCOPE} AND {VISIBLE} ORDER BY e.step_index"
)
_OUTPUTS = (
    f"SELECT e.step_index, p.data FROM entries e JOIN payloads p ON p.id = e.id * 16 + {_OUTPUT} "
    "WHERE e.run_id = :run AND e.step_index >= :start AND e.step_index < :stop "
    f"AND e.step_index IN (SELECT value FROM json_each(:indexes)) AND {_SCOPE}"
)
_HISTORY = (
    "SELECT e.run_id, e.seq, e.prev_hash, e.entry_hash, e.body, e.step_index, e.id, p.id % 16, p.salt, p.data "
    "FROM entries e LEFT JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 "
    f"WHERE e.run_id = :run AND {_SCOPE} ORDER BY e.seq, p.id"
)
_SPENDING = (
    "SELECT e.step_index, e.cost_micro_usd, e.tokens FROM entries e "
    f"WHERE e.run_id = :run AND e.step_index > :after AND {_SCOPE} ORDER BY e.step_index"
)
_COUNT_OF = {"commit": "commits", "reject": "rejects", "escalate": "escalates", "error": "errors"}


class SqliteHistory:
    """The reads of whole runs that a SQLite store adds to its own."""

    _appender: SqliteAppender
    _path: Path
    _busy_timeout_ms: int
    _closed: bool

    async def open(self) -> None:
        """Open for writing, which brings an old file to this version's schema."""
        raise NotImplementedError

    async def find_runs(
        self, where: RunFilter, limit: int, offset: int, before: str | None, tenant: str | None
    ) -> list[str]:
        """Return the ids of the runs meant, the newest first."""
        return await self._apart(partial(_find_runs, where, limit, offset, before, tenant)) or []

    async def outline(self, run_id: str, tenant: str | None) -> Outline | None:
        """Return the steps of a run in outline."""
        return await self._apart(partial(_outline, run_id, tenant))

    async def outputs(self, run_id: str, indexes: Sequence[int], tenant: str | None) -> dict[int, bytes]:
        """Return the output payloads of steps, by step index."""
        if not indexes:
            return {}
        return await self._apart(partial(_outputs, run_id, indexes, tenant)) or {}

    async def spending(self, run_id: str, after: int, tenant: str | None) -> list[tuple[int, int, int]]:
        """Return what a run's own steps spent."""
        parameters = {"run": run_id, "after": after, "tenant": tenant}
        return await self._apart(lambda connection: connection.execute(_SPENDING, parameters).fetchall()) or []

    async def history(self, run_id: str, tenant: str | None) -> AsyncIterator[StoredEntry]:
        """Yield a run's own entries of every kind in order."""
        connection = await self._connected()
        if connection is None:
            return
        # A cancelled reader leaves its thread at work; the lock keeps the connection open until that has ended.
        lock = threading.Lock()
        try:
            entries = _entries(connection, run_id, tenant)
            while page := await asyncio.to_thread(_page, entries, lock):
                for entry in page:
                    yield entry
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        finally:
            with lock:
                connection.close()

    async def _connected(self) -> sqlite3.Connection | None:
        """Return a connection of its own, with a transaction begun; None when there is no ledger yet."""
        if self._closed:
            raise LedgerError("the ledger is closed")

        def connect() -> sqlite3.Connection | None:
            if not self._path.exists():
                return None
            try:
                connection = self._appender.vault.reading(open_reader(self._path, self._busy_timeout_ms))
            except EmptyFileError:
                return None
            connection.execute("BEGIN")
            return connection

        try:
            return await asyncio.to_thread(connect)
        except OldSchemaError:
            await self.open()
            return await asyncio.to_thread(connect)

    async def _apart(self, job: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run a function in a thread on a connection of its own; None when there is no ledger yet."""
        connection = await self._connected()
        if connection is None:
            return None
        with _explained(self._path):
            return await asyncio.to_thread(_run_and_close, job, connection)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _run_and_close(job: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    try:
        return job(connection)
    finally:
        connection.close()


def _parts(connection: sqlite3.Connection, run_id: str) -> list[Segment]:
    """Return where the steps of a run lie; a deleted run lists nothing that it inherited, and hands nothing on."""
    rows = connection.execute(LINEAGE, {"run": run_id}).fetchall()
    for place, row in enumerate(rows):
        if connection.execute(f"SELECT {WAS_DELETED}", {"run": row[0], "tenant": None}).fetchone()[0]:
            return segments(rows[: place + 1])
    return segments(rows)


def _outline(run_id: str, tenant: str | None, connection: sqlite3.Connection) -> Outline | None:
    known = "SELECT 1 FROM runs WHERE run_id = ? AND (? IS NULL OR tenant_id = ?)"
    if connection.execute(known, (run_id, tenant, tenant)).fetchone() is None:
        return None
    outline = Outline(run_id)
    for part in _parts(connection, run_id):
        if part.run_id == run_id:
            outline.inherited = len(outline)
        parameters = {"run": part.run_id, "start": part.start, "stop": part.stop, "tenant": tenant}
        for index, node, verdict, code, cost, tokens, output, erased in connection.execute(_OUTLINE, parameters):
            outline.add(index, node, (verdict, code), cost, tokens, output, bool(erased))
    return outline


def _outputs(
    run_id: str, indexes: Sequence[int], tenant: str | None, connection: sqlite3.Connection
) -> dict[int, bytes]:
    wanted = orjson.dumps(list(indexes)).decode()
    found: dict[int, bytes] = {}
    for part in _parts(connection, run_id):
        parameters = {
            "run": part.run_id, "start": part.start, "stop": part.stop, "indexes": wanted, "tenant": tenant
        }  # fmt: skip
        found.update(connection.execute(_OUTPUTS, parameters).fetchall())
    return found


def _entries(connection: sqlite3.Connection, run_id: str, tenant: str | None) -> Iterator[StoredEntry]:
    entry: StoredEntry | None = None
    payloads: dict[str, tuple[bytes, bytes]] = {}
    rows = connection.execute(_HISTORY, {"run": run_id, "tenant": tenant})
    for run, seq, prev, digest, body, index, entry_id, number, salt, data in rows:
        if entry is None or entry.position != entry_id - 1:
            if entry is not None:
                yield entry
            payloads = {}
            entry = StoredEntry(run, seq, prev, digest, body, payloads, index, entry_id - 1)
        if number is not None and number < len(FIELDS):
            payloads[FIELDS[number]] = (salt, data)
    if entry is not None:
        yield entry


def _page(entries: Iterator[StoredEntry], lock: threading.Lock) -> list[StoredEntry]:
    with lock:
        return [entry for _, entry in zip(range(_PAGE), entries, strict=False)]


def _find_runs(
    where: RunFilter, limit: int, offset: int, before: str | None, tenant: str | None, connection: sqlite3.Connection
) -> list[str]:
    part = "SELECT 1 FROM runs t WHERE t.run_id = r.run_id AND (:tenant IS NULL OR t.tenant_id = :tenant) AND"
    terms = ["r.first_seq = 0" if tenant is None else "r.tenant_id = :tenant"]
    if before is not None:
        terms.append("r.id < (SELECT min(id) FROM runs WHERE run_id = :before)")
    if where.verdict is not None:
        terms.append(f"EXISTS ({part} t.{_COUNT_OF[where.verdict]} > 0)")
    if where.since_us is not None:
        terms.append(f"EXISTS ({part} t.last_us >= :since)")
    if where.until_us is not None:
        terms.append(f"EXISTS ({part} t.first_us < :until)")
    if where.node is not None:
        terms.append(
            "EXISTS (SELECT 1 FROM run_nodes n WHERE n.run_id = r.run_id AND n.node_id = :node "
            "AND (:tenant IS NULL OR n.tenant_id = :tenant))"
        )
    if where.tool is not None:
        terms.append(
            "EXISTS (SELECT 1 FROM entries e WHERE e.run_id = r.run_id AND e.step_index IS NOT NULL "
            f"AND instr(e.body, :tool) > 0 AND {_SCOPE})"
        )
    rows = connection.execute(
        f"SELECT r.run_id FROM runs r WHERE {' AND '.join(terms)} ORDER BY r.id DESC LIMIT :limit OFFSET :offset",
        {
            "tenant": tenant, "before": before, "since": where.since_us, "until": where.until_us, "node": where.node,
            "tool": b'"tool":' + orjson.dumps(where.tool), "limit": limit, "offset": offset,
        },
    )  # fmt: skip
    return [row[0] for row in rows]
