"""A ledger's store in a database: group commit in one thread, reads beside it."""

# ruff: noqa: S608 - statements are put together from constants of this module alone

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.clock import SystemClock
from meshflow.errors import LedgerError
from meshflow.ledger.format.companions import CompanionSource
from meshflow.ledger.format.entry import Draft, StoredEntry, Written
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection, Database, EmptyLedgerError, OldSchemaError
from meshflow.ledger.sql.erase import VISIBLE
from meshflow.ledger.sql.erasing import SqlErasing
from meshflow.ledger.sql.evidence import SqlEvidence
from meshflow.ledger.sql.history import SqlHistory
from meshflow.ledger.sql.jobs import close_run, fork_run
from meshflow.ledger.sql.lineage import ENDLESS, LINEAGE, Segment, segments
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, grouped
from meshflow.ledger.sql.sign import LogSigner
from meshflow.ledger.sql.snapshot import SqlSnapshots
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.writer import GroupWriter

if TYPE_CHECKING:
    from meshflow.ledger.store import LedgerStore

T = TypeVar("T")
RUN_TOTALS = (
    "run_id", "tenant_id", "first_seq", "parent_run_id", "parent_steps", "entries", "steps", "commits", "rejects",
    "escalates", "errors", "cost_micro_usd", "tokens", "first_us", "last_us",
)  # fmt: skip
_PAGE = 256
_ENTRY = (
    f"e.run_id, e.seq, e.prev_hash, e.entry_hash, e.body, e.step_index, e.id, {PAYLOAD} "
    "FROM chosen c JOIN entries e ON e.id = c.id "
    f"LEFT JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 {KEY} ORDER BY e.id, p.id"
)
_KEY_ID = 10
# A tenant's steps of a run have the indexes that it counts, unless those of others lie between them. Their own rows
# say so, which are all that a database shows to a tenant that it keeps apart.
_COUNTED = "(SELECT r.parent_steps + r.steps FROM runs r WHERE r.run_id = :run AND r.tenant_id = :tenant)"
_REACHED = (
    "(SELECT max(s.step_index) + 1 FROM entries s "
    "WHERE s.run_id = :run AND s.tenant_id = :tenant AND s.step_index IS NOT NULL)"
)
_SCOPE = f"(:tenant IS NULL OR e.tenant_id = :tenant) AND {VISIBLE}"


class SqlStore(SqlErasing, SqlEvidence, SqlHistory, SqlSnapshots):
    """A ledger in a database, for any number of processes.

    Nothing is opened before first use, and reading never makes a ledger: one that is not there reads as empty.
    """

    def __init__(
        self, database: Database, *, queue_limit: int = 4_096, key: KeySource | None = None, checkpoint_every: int = 1,
        checkpoint_within_ms: int = 1_000, now_us: Callable[[], int] | None = None, vault: Vault | None = None,
        companion: CompanionSource | None = None, patience_ms: int = 15_000,
    ) -> None:  # fmt: skip
        clock = now_us or SystemClock().now_us
        signer = LogSigner(key, checkpoint_every, checkpoint_within_ms / 1_000, clock, database.name, companion)
        self._database = database
        self._appender = SqlAppender(database, signer, vault or Vault(), patience_ms)
        self._writer = GroupWriter(self._appender, queue_limit=queue_limit)
        self._closed = False

    async def open(self) -> None:
        """Open the ledger for writing, and make it if it is not there."""
        await self._writer.run(self._appender.start)

    async def admit(self) -> None:
        """Wait until there is room for one more entry."""
        await self._writer.admit()

    async def append(self, draft: Draft) -> Written:
        """Append an entry and return once it is durable."""
        return await self._writer.append(draft)

    async def close_run(self, run_id: str, tenant: str | None, at_us: int) -> Written:
        """Append the closing entry."""
        return await self._run(partial(close_run, self._appender, run_id, tenant, at_us))

    async def fork_run(
        self, run_id: str, parent_run_id: str, from_step: int, tenant: str | None, at_us: int,
        fields: Mapping[str, Any] | None = None,
    ) -> Written:  # fmt: skip
        """Begin a run that inherits steps by reference."""
        job = partial(fork_run, self._appender, run_id, parent_run_id, from_step, tenant, at_us, fields)
        return await self._run(job)

    async def _run(self, job: Callable[[], T]) -> T:
        try:
            return await self._writer.run(job)
        except self._database.failures as error:
            raise self._database.explain(error) from error

    async def entries(
        self, run_id: str, kind: str, tenant: str | None = None, *, inherited: bool = True, after: int = -1
    ) -> AsyncIterator[StoredEntry]:
        """Yield a run's entries of one kind in order; each page is one statement, so one snapshot."""
        if kind == "step" and inherited:
            for part in (await self._segments(run_id))[:-1]:
                async for entry in self._pages(part, "step_index", "step", tenant, after):
                    yield entry
        ordered = "step_index" if kind == "step" else "seq"
        async for entry in self._pages(Segment(run_id, 0, ENDLESS), ordered, kind, tenant, after):
            yield entry

    async def _pages(
        self, part: Segment, place: str, kind: str, tenant: str | None, after: int
    ) -> AsyncIterator[StoredEntry]:
        after = max(after, part.start - 1)
        while True:
            page = await self._entries(
                f"SELECT e.id FROM entries e WHERE e.run_id = :run AND e.{place} > :after AND e.{place} < :stop "
                f"AND e.kind = :kind AND {_SCOPE} ORDER BY e.{place} LIMIT :limit",
                {"run": part.run_id, "after": after, "stop": part.stop, "kind": kind, "tenant": tenant, "limit": _PAGE},
            )
            for entry in page:
                yield entry
            if len(page) < _PAGE:
                return
            last = page[-1]
            after = last.seq if last.step_index is None else last.step_index

    async def _segments(self, run_id: str) -> list[Segment]:
        rows = [*await self._fetch(LINEAGE, {"run": run_id})]
        if len(rows) < 2:
            return segments(rows)
        # A deleted run lists nothing that it inherited, and hands nothing of it on.
        for place, row in enumerate(rows):
            if await self.is_deleted(row[0], None):
                return segments(rows[: place + 1])
        return segments(rows)

    async def entry_at(self, run_id: str, index: int, kind: str, tenant: str | None = None) -> StoredEntry | None:
        """Return the entry of a kind by its place, from the end when negative."""
        if kind == "step" and index >= 0:
            found = await self._step(run_id, index, tenant) or await self._inherited(run_id, index, tenant)
            if found is not None or tenant is None:
                return found
        found = await self._counted(run_id, index, kind, tenant)
        if found is None and kind == "step" and index < 0:
            return await self._inherited_from_the_end(run_id, index, tenant)
        return found

    async def _counted(self, run_id: str, index: int, kind: str, tenant: str | None) -> StoredEntry | None:
        """Return an entry by counting to it: those of a kind, and of a tenant among others, have no index."""
        place = "step_index" if kind == "step" else "seq"
        order, offset = ("ASC", index) if index >= 0 else ("DESC", -index - 1)
        shared = f"AND {_COUNTED} <> {_REACHED}"
        found = await self._entries(
            f"SELECT e.id FROM entries e WHERE e.run_id = :run AND e.kind = :kind AND {_SCOPE} "
            f"AND e.{place} IS NOT NULL {shared if kind == 'step' and index >= 0 else ''} "
            f"ORDER BY e.{place} {order} LIMIT 1 OFFSET :offset",
            {"run": run_id, "kind": kind, "tenant": tenant, "offset": offset},
        )
        return found[0] if found else None

    async def _step(self, run_id: str, index: int, tenant: str | None) -> StoredEntry | None:
        found = await self._entries(
            f"SELECT e.id FROM entries e WHERE e.run_id = :run AND e.step_index = :index AND {VISIBLE} "
            f"AND (:tenant IS NULL OR (e.tenant_id = :tenant AND {_COUNTED} = {_REACHED}))",
            {"run": run_id, "index": index, "tenant": tenant},
        )
        return found[0] if found else None

    async def _inherited(self, run_id: str, index: int, tenant: str | None) -> StoredEntry | None:
        for part in (await self._segments(run_id))[:-1]:
            if part.start <= index < part.stop:
                return await self._step(part.run_id, index, tenant)
        return None

    async def _inherited_from_the_end(self, run_id: str, index: int, tenant: str | None) -> StoredEntry | None:
        """Return a step counted back past a fork's own ones; a fork has the tenant of what it inherits."""
        parts = await self._segments(run_id)
        if len(parts) < 2:
            return None
        (own,) = await self._fetch("SELECT count(step_index) FROM entries WHERE run_id = :run", {"run": run_id})
        return await self._inherited(run_id, parts[-1].start + own[0] + index, tenant)

    async def runs(self, limit: int, offset: int, before: str | None, tenant: str | None) -> list[str]:
        """Return run ids, the newest first."""
        scope = "first_seq = 0" if tenant is None else "tenant_id = :tenant"
        older = "AND id < (SELECT min(id) FROM runs WHERE run_id = :before)" if before is not None else ""
        rows = await self._fetch(
            f"SELECT run_id FROM runs WHERE {scope} {older} ORDER BY id DESC LIMIT :limit OFFSET :offset",
            {"limit": limit, "offset": offset, "before": before, "tenant": tenant},
        )
        return [row[0] for row in rows]

    async def totals(self, run_id: str, tenant: str | None) -> list[dict[str, Any]]:
        """Return what is kept of a run, a row for each tenant in it."""
        scope = "run_id = :run AND (:tenant IS NULL OR tenant_id = :tenant)"
        parameters = {"run": run_id, "tenant": tenant}
        rows = await self._fetch(
            f"SELECT {', '.join(RUN_TOTALS)} FROM runs WHERE {scope} ORDER BY first_seq", parameters
        )
        return [dict(zip(RUN_TOTALS, row, strict=True)) for row in rows]

    async def nodes(self, run_id: str, tenant: str | None) -> list[str]:
        """Return the nodes of a run's own steps in the order in which they first appear."""
        rows = await self._fetch(
            "SELECT node_id FROM run_nodes WHERE run_id = :run AND (:tenant IS NULL OR tenant_id = :tenant) "
            "GROUP BY node_id ORDER BY min(first_seq)",
            {"run": run_id, "tenant": tenant},
        )
        return [row[0] for row in rows]

    async def escalations(self, approval_id: str | None, tenant: str | None) -> list[StoredEntry]:
        """Return the steps that wait, or the one with an approval id."""
        wanted = (
            "NOT EXISTS (SELECT 1 FROM entries d WHERE d.approval_id = e.approval_id AND d.kind = 'approval')"
            if approval_id is None
            else "e.approval_id = :approval"
        )
        return await self._entries(
            "SELECT e.id FROM entries e INDEXED BY entries_approval "
            "WHERE e.approval_id IS NOT NULL AND e.kind = 'step' "
            f"AND e.verdict = 'escalate' AND {wanted} AND {_SCOPE}",
            {"approval": approval_id, "tenant": tenant},
        )

    async def decision(self, approval_id: str) -> StoredEntry | None:
        """Return the approval entry of an approval id."""
        found = await self._entries(
            "SELECT e.id FROM entries e WHERE e.approval_id = :approval AND e.kind = 'approval'",
            {"approval": approval_id},
        )
        return found[0] if found else None

    async def last_of(self, run_id: str, step_id: str, kind: str) -> StoredEntry | None:
        """Return a step's entry of a kind with the highest attempt."""
        found = await self._entries(
            "SELECT e.id FROM entries e WHERE e.run_id = :run AND e.step_id = :step AND e.kind = :kind "
            "ORDER BY e.attempt DESC LIMIT 1",
            {"run": run_id, "step": step_id, "kind": kind},
        )
        return found[0] if found else None

    async def unfinished(self, run_id: str | None, tenant: str | None) -> list[StoredEntry]:
        """Return the intents without an outcome; found in the key's index alone."""
        one_run = "AND i.run_id = :run" if run_id is not None else ""
        outcome = (
            "SELECT 1 FROM entries s WHERE s.run_id = i.run_id AND s.step_id = i.step_id "
            "AND s.attempt = i.attempt AND s.kind = 'step'"
        )
        return await self._entries(
            "SELECT i.id FROM entries i INDEXED BY entries_key JOIN entries e ON e.id = i.id "
            f"WHERE i.kind = 'intent' {one_run} AND {_SCOPE} AND NOT EXISTS ({outcome})",
            {"run": run_id, "tenant": tenant},
        )

    async def _entries(self, chosen: str, parameters: dict[str, Any]) -> list[StoredEntry]:
        rows = await self._fetch(f"WITH chosen AS ({chosen}) SELECT {_ENTRY}", parameters)
        if any(row[_KEY_ID] is not None for row in rows):
            return await asyncio.to_thread(lambda: list(grouped(self._appender.vault.opener().open_rows(rows))))
        return list(grouped(rows))

    async def _fetch(self, sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        return await self._reading(partial(self._database.fetch, sql, parameters)) or ()

    async def _call(self, job: Callable[[Connection], T]) -> T | None:
        """Run a quick function on a reading connection; None when there is no ledger yet."""
        return await self._reading(partial(self._database.call, job))

    async def _connected(self, *, scoped: bool = True) -> Connection | None:
        """Return a connection of its own at one snapshot; None when there is no ledger yet."""
        return await self._reading(partial(self._database.connect, scoped=scoped))

    async def _apart(self, job: Callable[[Connection], T], *, scoped: bool = True) -> T | None:
        """Run a function in a thread on a connection of its own, at one snapshot; None when there is no ledger yet."""
        connection = await self._connected(scoped=scoped)
        if connection is None:
            return None
        try:
            return await _use(job, connection)
        except self._database.failures as error:
            raise self._database.explain(error) from error

    async def _reading(self, read: Callable[[], Awaitable[T]]) -> T | None:
        if self._closed:
            raise LedgerError("the ledger is closed")
        try:
            try:
                return await read()
            except OldSchemaError:
                await self.open()
                return await read()
        except EmptyLedgerError:
            return None
        except self._database.failures as error:
            raise self._database.explain(error) from error

    def stop(self) -> None:
        """Refuse further work without waiting."""
        self._closed = True
        self._writer.stop()

    async def aclose(self) -> None:
        """Write out what was handed in, then close."""
        self._closed = True
        await self._database.aclose()
        await self._writer.aclose()


async def _use(job: Callable[[Connection], T], connection: Connection) -> T:
    """Run a function with a connection in a thread and close it, even if the thread never comes to it."""
    mine = threading.Lock()  # whoever takes it closes the connection

    def work() -> T:
        if not mine.acquire(blocking=False):
            raise LedgerError("nobody waits for this any more")
        try:
            return job(connection)
        finally:
            connection.close()

    try:
        return await asyncio.to_thread(work)
    finally:
        if mine.acquire(blocking=False):
            connection.close()


if TYPE_CHECKING:

    def _is_a_store(store: SqlStore) -> LedgerStore:
        return store
