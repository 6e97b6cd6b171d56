"""Claims on threads as advisory locks of one database session: the server lets go of them when the session ends."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from meshflow.checkpoint.store import in_use

# A machine that vanishes says no goodbye: after about a minute the server takes its session for ended.
_KEEP_ALIVE = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"


class SessionClaims:
    """The claims of one store, all in one session beside its pool. Used on the store's own loop."""

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self._schema = schema
        self._lock = asyncio.Lock()
        self._session: Any = None
        self._held: dict[int, HeldClaim] = {}

    async def take(self, tenant: str, thread_id: str) -> HeldClaim:
        """Claim a thread; CheckpointConflictError if somebody has it."""
        number = _number(self._schema, tenant, thread_id)
        async with self._lock:
            known = self._held.get(number)
            if known is not None and not known.lost:
                raise in_use(thread_id)
            session = await self._opened()
            if not await session.fetchval("SELECT pg_try_advisory_lock($1)", number):
                raise in_use(thread_id)
            self._held[number] = claim = HeldClaim(number, session)
        return claim

    async def give_back(self, claim: HeldClaim) -> None:
        """Let go of a thread; what a session had that has ended is free already."""
        async with self._lock:
            if self._held.get(claim.number) is claim:
                del self._held[claim.number]
                if not claim.lost:
                    try:
                        await claim.session.execute("SELECT pg_advisory_unlock($1)", claim.number)
                    except BaseException:  # nobody knows whether the lock is held still: it ends with its session
                        claim.session.terminate()
                        raise

    async def close(self) -> None:
        """End the session, and every claim with it."""
        session, self._session = self._session, None
        self._held.clear()
        if session is not None:
            await session.close()

    async def _opened(self) -> Any:
        if self._session is None or self._session.is_closed():
            import asyncpg

            session = await asyncpg.connect(self._url)
            try:
                await session.execute(_KEEP_ALIVE)
            except BaseException:
                session.terminate()
                raise
            self._session = session
        return self._session


class HeldClaim:
    """A thread that a run has, for as long as the session lasts."""

    def __init__(self, number: int, session: Any) -> None:
        self.number = number
        self.session = session

    @property
    def lost(self) -> bool:
        """Whether the session has ended, so that another run may have the thread by now."""
        return bool(self.session.is_closed())


def _number(schema: str, tenant: str, thread_id: str) -> int:
    """Return what stands for a thread among the locks of a database, which are numbers of 64 bits."""
    text = f"meshflow:{schema}:{len(tenant)}:{tenant}{thread_id}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)
