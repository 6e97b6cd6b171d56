"""Checkpoints in PostgreSQL: for runs that any machine may take up again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from meshflow.checkpoint import statements as sql
from meshflow.checkpoint.session_claim import HeldClaim, SessionClaims
from meshflow.checkpoint.store import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    Claim,
    Held,
    Saved,
    ThreadKey,
    Write,
    moved_on,
    not_the_same,
    target_taken,
)
from meshflow.loop_thread import LoopThread

T = TypeVar("T")
_PAGE = 64
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_LOCK = 0x6D657368  # "mesh": makers of the tables wait for each other


class PostgresCheckpoints:
    """A checkpoint store in a database, over asyncpg: ``pip install "meshflow[postgres]"``.

    Makes its tables when it is first used, in the schema ``meshflow`` or the one that ``?schema=`` in the URL names.
    Its connections live on an event loop of its own, so that any number of loops and threads may share it. Close it
    with ``aclose`` or ``close``.
    """

    immediate = False

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self._url, self._schema = _address(url)
        self._pool_size = pool_size
        self._loop = LoopThread()
        self._pid = os.getpid()
        self._opening: asyncio.Lock | None = None
        self._pool: Any = None
        self._claims: SessionClaims | None = None

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._loop.submit(work))

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, also if the caller is cancelled meanwhile."""
        return await asyncio.shield(asyncio.wrap_future(self._loop.submit(work)))

    def blocking(self) -> CheckpointStore:
        """Return the same store for a caller without an event loop: it waits where it is called."""
        return _Blocking(self)

    async def put(
        self,
        key: ThreadKey,
        checkpoint: Checkpoint,
        blobs: Mapping[tuple[str, str], bytes],
        *,
        after: str | None = None,
    ) -> None:
        """Write a checkpoint and its new blobs."""
        await self._do(self._put(key, checkpoint, blobs, after))

    async def put_writes(self, key: ThreadKey, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """Add what a task did."""
        rows = [(one.task_id, one.channel, one.index, one.path, one.payload) for one in writes]
        columns = [list(column) for column in zip(*rows, strict=True)]
        if columns:
            await self._do(self._fetch(sql.PUT_WRITES, *_here(key), checkpoint_id, *columns))

    async def claim(self, tenant: str, thread_id: str) -> Claim:
        """Take a thread for one run, by an advisory lock of a session that the store keeps for that."""
        claim = _Claim(self)
        try:
            await self._finish(claim.take(tenant, thread_id))
        except BaseException:  # a caller who was cancelled gets no claim, so nobody would let go of it
            await claim.release()
            raise
        return claim

    async def get(self, key: ThreadKey, checkpoint_id: str | None = None) -> Saved | None:
        """Return a checkpoint, or the newest."""
        return await self._do(self._get(key, checkpoint_id))

    async def list(
        self, tenant: str, thread_id: str | None = None, namespace: str | None = None, *, before: str | None = None
    ) -> AsyncIterator[Saved]:
        """Yield checkpoints, the newest first."""
        place: tuple[str | None, str, str] = (before, "", "")
        while True:
            page = await self._do(self._page(tenant, thread_id, namespace, place))
            for saved in page:
                yield saved
                place = (saved.checkpoint.checkpoint_id, saved.key.thread_id, saved.key.namespace)
            if len(page) < _PAGE:
                return

    async def threads(self, tenant: str) -> Sequence[str]:
        """Return the tenant's threads."""
        return [name for (name,) in await self._do(self._fetch(sql.THREADS, tenant))]

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Forget a thread."""
        await self._do(self._transaction([(statement, (tenant, thread_id)) for statement in sql.DELETE_THREAD]))

    async def delete_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Forget what these runs wrote."""
        await self._do(self._forget(tenant, sql.OF_RUNS, [*run_ids]))

    async def threads_of_runs(self, tenant: str | None, run_ids: Sequence[str]) -> Sequence[tuple[str, str]]:
        """Return the threads in which these runs wrote."""
        return [(owner, name) for owner, name in await self._do(self._fetch(sql.THREADS_OF_RUNS, tenant, [*run_ids]))]

    async def erase_runs(self, tenant: str | None, run_ids: Sequence[str], held: Held | None = None) -> int:
        """Forget whole threads of these runs."""
        from meshflow.checkpoint.erasing import erase_threads

        return await erase_threads(self, tenant, run_ids, self.delete_thread, held)

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copy a thread."""
        await self._do(self._copy(tenant, source, target))

    async def prune(self, tenant: str, thread_id: str) -> None:
        """Forget all but the newest of each namespace."""
        await self._do(self._forget(tenant, sql.OUTDATED, thread_id))

    async def aclose(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Do the same for a blocking caller."""
        self._loop.run(self._close())
        self._loop.stop()

    async def _opened(self) -> Any:
        if self._pid != os.getpid():  # a fork takes connections along that are its parent's
            self._pool, self._opening, self._claims, self._pid = None, None, None, os.getpid()
        if self._pool is None:
            self._opening = self._opening or asyncio.Lock()
            async with self._opening:
                if self._pool is None:
                    self._pool = await _open(self._url, self._pool_size, self._schema, self._in_schema(sql.TABLES))
        return self._pool

    async def _close(self) -> None:
        pool, self._pool, self._opening = self._pool, None, None
        claims, self._claims = self._claims, None
        if claims is not None:
            await claims.close()
        if pool is not None:
            await pool.close()

    async def session_claims(self) -> SessionClaims:
        """Return the claims of this process, on the store's own loop."""
        await self._opened()
        if self._claims is None:
            self._claims = SessionClaims(self._url, self._schema)
        return self._claims

    def _in_schema(self, statement: str) -> str:
        return statement.replace("meshflow.", f"{self._schema}.")

    async def _fetch(self, statement: str, *arguments: Any) -> Any:
        pool = await self._opened()
        try:
            return await pool.fetch(self._in_schema(statement), *arguments)
        except _errors() as error:
            raise _failed(error) from error

    async def _transaction(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        pool = await self._opened()
        try:
            async with pool.acquire() as connection, connection.transaction():
                for statement, arguments in statements:
                    await connection.execute(self._in_schema(statement), *arguments)
        except _errors() as error:
            raise _failed(error) from error

    async def _put(
        self, key: ThreadKey, one: Checkpoint, blobs: Mapping[tuple[str, str], bytes], after: str | None
    ) -> None:
        names, versions = [name for name, _ in blobs], [version for _, version in blobs]
        row = (one.parent_id, one.run_id, one.body, one.metadata, json.dumps(dict(one.values)), after)
        arguments = (*_here(key), one.checkpoint_id, *row, names, versions, [*blobs.values()])
        ((count,),) = await self._fetch(sql.PUT, *arguments)
        if count:
            return
        stored = await self._get(key, one.checkpoint_id)
        if stored is None:
            ((newest,),) = await self._fetch(sql.NEWEST, *_here(key))
            raise moved_on(key, after or "", newest or "")
        if stored.checkpoint != one:
            raise not_the_same(key, one.checkpoint_id)

    async def _get(self, key: ThreadKey, checkpoint_id: str | None) -> Saved | None:
        if checkpoint_id is None:
            rows = await self._fetch(sql.GET_NEWEST, *_here(key))
        else:
            rows = await self._fetch(sql.GET, *_here(key), checkpoint_id)
        return await self._saved(rows[0]) if rows else None

    async def _saved(self, row: Any) -> Saved:
        *here, checkpoint_id, parent, run, body, metadata, held = row
        versions = json.loads(held)
        blobs = dict(map(tuple, await self._fetch(sql.GET_BLOBS, *here, [*versions], [*versions.values()])))
        writes = await self._fetch(sql.GET_WRITES, *here, checkpoint_id)
        checkpoint = Checkpoint(
            checkpoint_id=checkpoint_id, parent_id=parent, run_id=run, body=body, metadata=metadata, values=versions
        )
        ordered = {name: blobs[name] for name in versions if name in blobs}
        return Saved(ThreadKey(*here), checkpoint, ordered, tuple(Write(*one) for one in writes))

    async def _page(
        self, tenant: str, thread: str | None, namespace: str | None, place: tuple[str | None, str, str]
    ) -> Sequence[Saved]:
        rows = await self._fetch(sql.PAGE, tenant, thread, namespace, *place, _PAGE)
        return [await self._saved(row) for row in rows]

    async def _forget(self, tenant: str, which: str, argument: Any) -> None:
        found = [((tenant, thread, space), one) for thread, space, one in await self._fetch(which, tenant, argument)]
        statements: list[tuple[str, tuple[Any, ...]]] = []
        for here, one in found:
            statements += [(sql.FORGET, (*here, one)), (sql.FORGET_WRITES, (*here, one))]
        statements += [(sql.FORGET_BLOBS, here) for here in dict.fromkeys(here for here, _ in found)]
        await self._transaction(statements)

    async def _copy(self, tenant: str, source: str, target: str) -> None:
        if await self._fetch(sql.TAKEN, tenant, target):
            raise target_taken(target)
        await self._transaction([(statement, (tenant, source, target)) for statement in sql.COPY_THREAD])


class _Blocking(PostgresCheckpoints):
    immediate = True

    def __init__(self, store: PostgresCheckpoints) -> None:
        self.__dict__ = store.__dict__

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.submit(work).result()


class _Claim:
    """A thread that a run has in this store. Its steps are done on the store's loop, one behind the other."""

    def __init__(self, store: PostgresCheckpoints) -> None:
        self._store = store
        self._order = asyncio.Lock()
        self._held: HeldClaim | None = None
        self._claims: SessionClaims | None = None

    @property
    def lost(self) -> bool:
        return self._held is not None and self._held.lost

    async def take(self, tenant: str, thread_id: str) -> None:
        async with self._order:
            self._claims = await self._store.session_claims()
            try:
                self._held = await self._claims.take(tenant, thread_id)
            except _errors() as error:
                raise _failed(error) from error

    async def release(self) -> None:
        await self._store._finish(self._given_back())

    async def _given_back(self) -> None:
        async with self._order:
            held, self._held = self._held, None
            if held is not None and self._claims is not None:
                with contextlib.suppress(*_errors()):  # a session that fails here has ended, and its locks with it
                    await self._claims.give_back(held)


async def _open(url: str, size: int, schema: str, tables: str) -> Any:
    try:
        import asyncpg
    except ImportError:
        raise CheckpointError('checkpoints in PostgreSQL need asyncpg: pip install "meshflow[postgres]"') from None
    try:
        pool = await asyncpg.create_pool(url, min_size=1, max_size=size)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            await connection.execute(tables)
    except _errors() as error:
        raise _failed(error) from error
    return pool


def _address(url: str) -> tuple[str, str]:
    """Return the driver's URL, and the schema that ``?schema=`` names: the driver would take it for a setting."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    schema = next((value for name, value in given if name == "schema"), "meshflow")
    if not _NAME.fullmatch(schema):
        raise CheckpointError("schema= in the URL is a name of letters, digits and underscores, 63 of them at most")
    rest = urlencode([pair for pair in given if pair[0] != "schema"])
    return urlunsplit(parts._replace(query=rest)), schema


def _errors() -> tuple[type[Exception], ...]:
    import asyncpg

    return (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError)


def _failed(error: Exception) -> CheckpointError:
    return CheckpointError(f"the checkpoint store in PostgreSQL failed: {type(error).__name__}: {error}")


def _here(key: ThreadKey) -> tuple[str, str, str]:
    return key.tenant, key.thread_id, key.namespace


if TYPE_CHECKING:
    _: CheckpointStore = PostgresCheckpoints("")
