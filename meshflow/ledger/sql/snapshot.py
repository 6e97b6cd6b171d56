"""A ledger at one moment, over a connection of its own whose statements run in threads."""

# ruff: noqa: S608 - statements are put together from constants of this module alone

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.ledger.format.entry import StoredEntry
from meshflow.ledger.format.log import Nodes
from meshflow.ledger.snapshot import LedgerSnapshot, LogHead
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection, Database, stream
from meshflow.ledger.sql.lineage import LINEAGE
from meshflow.ledger.sql.log import load_log, recall_from
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, Opener, grouped
from meshflow.ledger.sql.proofs import newest_checkpoint, origin_and_size, signer_rows

T = TypeVar("T")
_PAGE = 256
_COLUMNS = "e.run_id, e.seq, e.prev_hash, e.entry_hash, e.body, e.step_index, e.id"
_PAYLOADS = (
    f"SELECT {_COLUMNS}, {PAYLOAD} FROM entries e "
    f"LEFT JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 {KEY}"
)
_BARE = f"SELECT {_COLUMNS}{', NULL' * 7} FROM entries e"
_SCOPE = "e.id <= :stop AND (:tenant IS NULL OR e.tenant_id = :tenant)"


class SqlSnapshot:
    """A connection inside a transaction, used by one thread at a time."""

    def __init__(self, connection: Connection, database: Database, opener: Opener) -> None:
        self._connection = connection
        self._database = database
        self._opener = opener
        # A cancelled reader leaves its thread at work; the lock keeps the connection open until that has ended.
        self.lock = threading.Lock()

    async def _run(self, job: Callable[[Connection], T]) -> T:
        def work() -> T:
            with self.lock:
                return job(self._connection)

        try:
            return await asyncio.to_thread(work)
        except self._database.failures as error:
            raise self._database.explain(error) from error

    async def head(self) -> LogHead:
        """Return what the log says of itself."""

        def job(connection: Connection) -> LogHead:
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

        def begin(connection: Connection) -> Iterator[StoredEntry]:
            given = {"stop": stop, "tenant": tenant}
            if runs is None:
                return grouped(self._rows(connection, f"{select} WHERE {_SCOPE} ORDER BY e.id{order}", given))
            one_run = f"{select} WHERE e.run_id = :run AND {_SCOPE} ORDER BY e.seq{order}"
            cursors = [self._rows(connection, one_run, {**given, "run": run}) for run in sorted(runs)]
            return merge(*map(grouped, cursors), key=lambda entry: entry.position)

        found = await self._run(begin)
        while page := await self._run(lambda _: list(islice(found, _PAGE))):
            for entry in page:
                yield entry

    def _rows(self, connection: Connection, sql: str, parameters: dict[str, Any]) -> Iterator[Any]:
        return self._opener.open_rows(stream(connection, sql, parameters, _PAGE))

    async def nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return roots of complete subtrees, from the tiles."""

        def job(connection: Connection) -> list[bytes]:
            if self._nodes is None:
                self._nodes = Nodes(recall_from(connection), load_log(connection)[1].frontier)
            return [self._nodes(level, index) for level, index in places]

        return await self._run(job)

    _nodes: Nodes | None = None


class SqlSnapshots:
    """The part of a store in a database that holds a moment for reading."""

    _appender: SqlAppender
    _database: Database

    async def _connected(self, *, scoped: bool = True) -> Connection | None:
        raise NotImplementedError

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[LedgerSnapshot | None]:
        """Hold the ledger as it is at the first question."""
        connection = await self._connected(scoped=False)
        if connection is None:
            yield None
            return
        held = SqlSnapshot(connection, self._database, self._appender.vault.opener())
        try:
            yield held
        finally:
            with held.lock:
                connection.close()


if TYPE_CHECKING:

    def _is_a_snapshot(snapshot: SqlSnapshot) -> LedgerSnapshot:
        return snapshot
