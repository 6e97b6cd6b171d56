"""The part of the SQLite store that erases; each call is a job of the writer's thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.ledger.erasure import ErasureOrder
from meshflow.ledger.sql import erase as sqlite_erase
from meshflow.ledger.sql import expired as sqlite_expired
from meshflow.ledger.sql import holds as sqlite_holds
from meshflow.ledger.sql.append import SqliteAppender

if TYPE_CHECKING:
    from meshflow.ledger.retention import RetentionRule

T = TypeVar("T")


class SqliteErasing:
    """Erasure, holds and retention of a SqliteStore."""

    _appender: SqliteAppender

    async def _run(self, job: Callable[[], T]) -> T:
        raise NotImplementedError

    async def _fetch(self, sql: str, parameters: dict[str, Any]) -> Iterable[Any]:
        raise NotImplementedError

    async def erase(self, run_id: str, order: ErasureOrder) -> int:
        """Delete payloads under a tombstone."""
        return await self._run(partial(sqlite_erase.erase, self._appender, run_id, order))

    async def is_deleted(self, run_id: str, tenant: str | None) -> bool:
        """Say whether a run was deleted."""
        rows = await self._fetch(f"SELECT {sqlite_erase.WAS_DELETED}", {"run": run_id, "tenant": tenant})
        return any(row[0] for row in rows)

    async def runs_of_subject(self, subject: str, after: str, limit: int, tenant: str | None) -> list[str]:
        """Return runs that hold payloads of somebody; the index is brought up to date page by page before."""
        while not await self._run(partial(sqlite_erase.index_subjects, self._appender)):
            pass
        return await self._run(partial(sqlite_erase.runs_of_subject, self._appender, subject, after, limit, tenant))

    async def hold(
        self, run_id: str | None, subject: str | None, reason: str, authority: str, tenant: str | None, at_us: int
    ) -> int:
        """Place a hold."""
        job = partial(sqlite_holds.place_hold, self._appender, run_id, subject, reason, authority, tenant, at_us)
        return await self._run(job)

    async def release_hold(self, number: int, reason: str, authority: str, tenant: str | None, at_us: int) -> bool:
        """Release a hold."""
        job = partial(sqlite_holds.release_hold, self._appender, number, reason, authority, tenant, at_us)
        return await self._run(job)

    async def holds(self, released: bool, tenant: str | None) -> list[dict[str, Any]]:
        """Return holds."""
        return await self._run(partial(sqlite_holds.holds, self._appender, released, tenant))

    async def expired(
        self, rules: Collection[RetentionRule], now_us: int, after: int, limit: int, tenant: str | None
    ) -> tuple[dict[str, dict[int, frozenset[str]]], int | None]:
        """Return what is past its time, from a position on."""
        job = partial(sqlite_expired.expired, self._appender, rules, now_us, after, limit, tenant)
        return await self._run(job)
