"""A SQLite ledger at one moment, over a connection of its own whose statements run in threads."""

# ruff: noqa: S608 - statements are put together from constants of this module alone

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.ledger.format.entry import FIELDS, StoredEntry
from meshflow.ledger.format.log import Nodes
from meshflow.ledger.snapshot import LedgerSnapshot, LogHead
from meshflow.ledger.sql.lineage import LINEAGE
from meshflow.ledger.sql.log import load_log, recall_from
from meshflow.ledger.sql.proofs import newest_checkpoint, origin_and_size, signer_rows
from meshflow.ledger.sqlite.schema import explain

T = TypeVar("T")
_PAGE = 256
_COLUMNS = "e.run_id, e.seq, e.prev_hash, e.entry_hash, e.body, e.step_index, e.id"
_PAYLOADS = f"SELECT {_COLUMNS}, p.id % 16, p.salt, p.data FROM entries e LEFT JOIN payloads p " \
    "ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15"  # fmt: skip
_BARE = f"SELECT {_COLUMNS}, NULL, NULL, NULL FROM entries e"
_SCOPE = "e.id <= :stop AND (:tenant IS NULL OR e.tenant_id = :tenant)"


class SqliteSnapshot:
    """A connection inside a transaction, used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        # A cancelled reader leaves its thread at work; the lock keeps the connection open until that has ended.
        self.lock = threading.Lock()

    async def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        def work() -> T:
            with self.lock:
                return job(self._connection)

        try:
            return await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    async def head(self) -> LogHead:
        """Return what the log says of itself."""

        def job(connection: sqlite3.Connection) -> LogHead:
            newest = newest_checkpoint(connection)
            note = newest[1] if newest is not None else None
            return LogHead(origin_and_size(connection)[0], signer_rows(connection), note)

        return await self._run(job)

    async def tenants(self, run_id: str) -> frozenset[str]:
        """Return whose entries a run has."""
        sql = "SELECT tenant_id FROM runs WHERE run_id = ?"
        return await self._run(lambda connection: frozenset(row[0] for row in connection.execute(sql, (run_id,))))

    async def lineage(self, run_id: str) -> list[tuple[str, int]]:
        """Return a run and those it comes from."""
        return await self._run(lambda connection: connection.execute(LINEAGE, {"run": run_id}).fetchall())

    async def has_beyond(self, size: int, runs: Collection[str] | None, kind: str | None = None) -> bool:
        """Say whether an entry lies from a position on; what lies there is few."""
        sql = "SELECT DISTINCT run_id FROM entries WHERE id > :size AND (:kind IS NULL OR kind = :kind)"
        rows = await self._run(lambda connection: connection.execute(sql, {"size": size, "kind": kind}).fetchall())
        return any(runs is None or row[0] in runs for row in rows)

    async def entries(
        self, runs: Collection[str] | None, tenant: str | None, stop: int, payloads: bool
    ) -> AsyncIterator[StoredEntry]:
        """Yield entries in the order of the log."""
        select = _PAYLOADS if payloads else _BARE
        order = ", p.id" if payloads else ""

        def begin(connection: sqlite3.Connection) -> Iterator[StoredEntry]:
            given = {"stop": stop, "tenant": tenant}
            if runs is None:
                return _grouped(connection.execute(f"{select} WHERE {_SCOPE} ORDER BY e.id{order}", given))
            one_run = f"{select} WHERE e.run_id = :run AND {_SCOPE} ORDER BY e.seq{order}"
            cursors = [connection.execute(one_run, {**given, "run": run}) for run in sorted(runs)]
            return merge(*map(_grouped, cursors), key=lambda entry: entry.position)

        found = await self._run(begin)
        while page := await self._run(lambda _: list(islice(found, _PAGE))):
            for entry in page:
                yield entry

    async def nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return roots of complete subtrees, from the tiles."""

        def job(connection: sqlite3.Connection) -> list[bytes]:
            if self._nodes is None:
                self._nodes = Nodes(recall_from(connection), load_log(connection)[1].frontier)
            return [self._nodes(level, index) for level, index in places]

        return await self._run(job)

    _nodes: Nodes | None = None


class SqliteSnapshots:
    """The part of the SQLite store that holds a moment for reading."""

    _path: Path

    async def _connected(self) -> sqlite3.Connection | None:
        raise NotImplementedError

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[LedgerSnapshot | None]:
        """Hold the ledger as it is at the first question."""
        connection = await self._connected()
        if connection is None:
            yield None
            return
        held = SqliteSnapshot(connection, self._path)
        try:
            yield held
        finally:
            with held.lock:
                connection.close()


def _grouped(rows: Iterable[Any]) -> Iterator[StoredEntry]:
    """Turn one row a payload into one entry each."""
    entry: StoredEntry | None = None
    payloads: dict[str, tuple[bytes, bytes]] = {}
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


if TYPE_CHECKING:
    _: LedgerSnapshot = SqliteSnapshot(sqlite3.connect(""), Path())
