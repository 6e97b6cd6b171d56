"""The part of a store in a database that erases and holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.ledger.erasure import ErasureOrder
from meshflow.ledger.shredding import wrapping_key
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.erase import WAS_DELETED, erase, index_subjects, runs_of_subject
from meshflow.ledger.sql.expired import expired
from meshflow.ledger.sql.holds import hold_on, holds, place_hold, release_hold

if TYPE_CHECKING:
    from meshflow.ledger.retention import RetentionRule

T = TypeVar("T")


class SqlErasing:
    """Erasure, holds and retention of a SqlStore; what changes anything is a job of the writer's thread."""

    _appender: SqlAppender

    async def _run(self, job: Callable[[], T]) -> T:
        raise NotImplementedError

    async def _fetch(self, sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        raise NotImplementedError

    async def _apart(self, job: Callable[[Connection], T], *, scoped: bool = True) -> T | None:
        raise NotImplementedError

    async def erase(self, run_id: str, order: ErasureOrder) -> int:
        """Delete payloads under a tombstone."""
        return await self._run(partial(erase, self._appender, run_id, order))

    async def is_deleted(self, run_id: str, tenant: str | None) -> bool:
        """Say whether a run was deleted."""
        rows = await self._fetch(f"SELECT {WAS_DELETED}", {"run": run_id, "tenant": tenant})
        return any(row[0] for row in rows)

    async def runs_of_subject(self, subject: str, after: str, limit: int, tenant: str | None) -> list[str]:
        """Return runs that hold payloads of somebody; the index is brought up to date page by page before."""
        while not await self._run(partial(index_subjects, self._appender)):
            pass
        return await self._run(partial(runs_of_subject, self._appender, subject, after, limit, tenant))

    async def hold(
        self, run_id: str | None, subject: str | None, reason: str, authority: str, tenant: str | None, at_us: int
    ) -> int:
        """Place a hold."""
        job = partial(place_hold, self._appender, run_id, subject, reason, authority, tenant, at_us)
        return await self._run(job)

    async def release_hold(self, number: int, reason: str, authority: str, tenant: str | None, at_us: int) -> bool:
        """Release a hold."""
        job = partial(release_hold, self._appender, number, reason, authority, tenant, at_us)
        return await self._run(job)

    async def holds(self, released: bool, tenant: str | None) -> list[dict[str, Any]]:
        """Return holds."""
        return await self._apart(lambda connection: holds(connection, released, tenant)) or []

    async def hold_on(self, run_id: str, tenant: str) -> int | None:
        """Return a hold on a run or on somebody in it."""
        return await self._run(partial(hold_on, self._appender, run_id, tenant))

    async def rewrap(self, key: str) -> int:
        """Wrap data keys anew."""
        new, vault = wrapping_key(key), self._appender.vault

        def job() -> int:
            count = self._appender.transact(lambda connection: vault.rewrap(connection, new))
            vault.rewrapped(new, key)
            return count

        return await self._run(job)

    async def expired(
        self, rules: Collection[RetentionRule], now_us: int, after: int, limit: int, tenant: str | None
    ) -> tuple[dict[str, dict[int, frozenset[str]]], int | None]:
        """Return what is past its time, from a position on."""
        job = partial(expired, rules=rules, now_us=now_us, after=after, limit=limit, tenant=tenant)
        return await self._apart(job) or ({}, None)
