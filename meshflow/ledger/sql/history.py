"""Whole runs, each over a connection of its own at one snapshot, so that other reads do not wait."""

# ruff: noqa: S608 - statements are put together from constants of this module alone

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from meshflow.ledger.format.entry import FIELD_NUMBER, StoredEntry
from meshflow.ledger.history import RunFilter
from meshflow.ledger.outline import Outline
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection, Database, groups, stream
from meshflow.ledger.sql.erase import VISIBLE, WAS_DELETED
from meshflow.ledger.sql.lineage import LINEAGE, Segment, segments
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, Opener, encrypts, grouped

T = TypeVar("T")
_PAGE = 256
_LONG_PAGE = 2_048
_SCOPE = "(:tenant IS NULL OR e.tenant_id = :tenant)"
_OUTPUT = FIELD_NUMBER["output"]
_OUTLINE = (
    "SELECT e.step_index, e.node_id, e.verdict, e.code, e.cost_micro_usd, e.tokens, "
    f"CASE WHEN p.id IS NULL THEN e.body END, {PAYLOAD} "
    f"FROM entries e LEFT JOIN payloads p ON p.id = e.id * 16 + {_OUTPUT} {KEY} "
    f"WHERE e.run_id = :run AND e.step_index >= :start AND e.step_index < :stop "
    f"AND {_SCOPE} AND {VISIBLE} ORDER BY e.step_index"
)
# These bytes occur nowhere else in the canonical body of a step: quotes inside texts are escaped.
_COMMITS_TO_OUTPUT = b'"output":"'
_OUTPUTS = (
    f"SELECT e.step_index, {PAYLOAD} FROM entries e JOIN payloads p ON p.id = e.id * 16 + {_OUTPUT} {KEY} "
    "WHERE e.run_id = ? AND e.step_index >= ? AND e.step_index < ? AND e.step_index IN (%s)"
)
_HISTORY = (
    f"SELECT e.run_id, e.seq, e.prev_hash, e.entry_hash, e.body, e.step_index, e.id, {PAYLOAD} "
    f"FROM entries e LEFT JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 {KEY} "
    f"WHERE e.run_id = :run AND {_SCOPE} ORDER BY e.seq, p.id"
)
_SPENDING = (
    "SELECT e.step_index, e.cost_micro_usd, e.tokens FROM entries e "
    f"WHERE e.run_id = :run AND e.step_index > :after AND {_SCOPE} ORDER BY e.step_index"
)
_COUNT_OF = {"commit": "commits", "reject": "rejects", "escalate": "escalates", "error": "errors"}


class SqlHistory:
    """The reads of whole runs that a store in a database adds to its own."""

    _appender: SqlAppender
    _database: Database

    async def _apart(self, job: Callable[[Connection], T], *, scoped: bool = True) -> T | None:
        raise NotImplementedError

    async def _connected(self, *, scoped: bool = True) -> Connection | None:
        raise NotImplementedError

    async def find_runs(
        self, where: RunFilter, limit: int, offset: int, before: str | None, tenant: str | None
    ) -> list[str]:
        """Return the ids of the runs meant, the newest first."""
        return await self._apart(partial(_find_runs, where, limit, offset, before, tenant)) or []

    async def outline(self, run_id: str, tenant: str | None) -> Outline | None:
        """Return the steps of a run in outline."""
        return await self._apart(partial(_outline, run_id, tenant, self._appender.vault.opener()))

    async def outputs(self, run_id: str, indexes: Sequence[int], tenant: str | None) -> dict[int, bytes]:
        """Return the output payloads of steps, by step index."""
        if not indexes:
            return {}
        return await self._apart(partial(_outputs, run_id, indexes, tenant, self._appender.vault.opener())) or {}

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
            rows = stream(connection, _HISTORY, {"run": run_id, "tenant": tenant}, _PAGE)
            entries = grouped(self._appender.vault.opener().open_rows(rows))
            while page := await asyncio.to_thread(_page, entries, lock):
                for entry in page:
                    yield entry
        except self._database.failures as error:
            raise self._database.explain(error) from error
        finally:
            with lock:
                connection.close()


def _parts(connection: Connection, run_id: str) -> list[Segment]:
    """Return where the steps of a run lie; a deleted run lists nothing that it inherited, and hands nothing on."""
    rows = connection.execute(LINEAGE, {"run": run_id}).fetchall()
    for place, row in enumerate(rows):
        if connection.execute(f"SELECT {WAS_DELETED}", {"run": row[0], "tenant": None}).fetchone()[0]:
            return segments(rows[: place + 1])
    return segments(rows)


def _outline(run_id: str, tenant: str | None, opener: Opener, connection: Connection) -> Outline | None:
    known = "SELECT 1 FROM runs WHERE run_id = :run AND (:tenant IS NULL OR tenant_id = :tenant)"
    if connection.execute(known, {"run": run_id, "tenant": tenant}).fetchone() is None:
        return None
    outline, encrypted = Outline(run_id), encrypts(connection)
    sql = _OUTLINE if encrypted else _OUTLINE.replace(PAYLOAD, "p.data").replace(KEY, "")
    for part in _parts(connection, run_id):
        if part.run_id == run_id:
            outline.inherited = len(outline)
        rows = connection.execute(sql, {"run": part.run_id, "start": part.start, "stop": part.stop, "tenant": tenant})
        while page := rows.fetchmany(_LONG_PAGE):
            if encrypted:
                page = [(*row[:7], row[9]) for row in opener.open_rows(page)]
            indexes, nodes, verdicts, codes, costs, tokens, bodies, outputs = zip(*page, strict=True)
            erased = [
                output is None and (body is None or _COMMITS_TO_OUTPUT in body)
                for body, output in zip(bodies, outputs, strict=True)
            ]
            outline.extend(indexes, nodes, list(zip(verdicts, codes, strict=True)), costs, tokens, outputs, erased)
    return outline


def _outputs(
    run_id: str, indexes: Sequence[int], tenant: str | None, opener: Opener, connection: Connection
) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    scope = "" if tenant is None else " AND e.tenant_id = ?"
    for part in _parts(connection, run_id):
        for marks, values in groups([index for index in indexes if part.start <= index < part.stop]):
            sql = _OUTPUTS % marks + scope
            more = () if tenant is None else (tenant,)
            rows = connection.execute(sql, (part.run_id, part.start, part.stop, *values, *more))
            found |= {index: data for index, _, _, data, *_ in opener.open_rows(rows) if data is not None}
    return found


def _page(entries: Iterator[StoredEntry], lock: threading.Lock) -> list[StoredEntry]:
    with lock:
        return [entry for _, entry in zip(range(_PAGE), entries, strict=False)]


def _find_runs(
    where: RunFilter, limit: int, offset: int, before: str | None, tenant: str | None, connection: Connection
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
            "EXISTS (SELECT 1 FROM run_tools n WHERE n.run_id = r.run_id AND n.tool = :tool "
            "AND (:tenant IS NULL OR n.tenant_id = :tenant))"
        )
    rows = connection.execute(
        f"SELECT r.run_id FROM runs r WHERE {' AND '.join(terms)} ORDER BY r.id DESC LIMIT :limit OFFSET :offset",
        {
            "tenant": tenant, "before": before, "since": where.since_us, "until": where.until_us, "node": where.node,
            "tool": where.tool, "limit": limit, "offset": offset,
        },
    )  # fmt: skip
    return [row[0] for row in rows]
