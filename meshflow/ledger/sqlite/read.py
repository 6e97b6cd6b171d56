"""The read connection of a SQLite ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from sqlite3 import Connection as SqliteConnection
from typing import Any, Self, TypeVar

import aiosqlite

from meshflow.ledger.sqlite.opening import Opening

T = TypeVar("T")


class Reader(aiosqlite.Connection):
    """An aiosqlite connection that a forgotten ``aclose`` cannot turn into a hanging process.

    Its thread would otherwise be waited for at the interpreter's exit, before anything could close it. Reads may be
    cut off at any point, so the thread is a daemon.
    """

    def __init__(self, connector: Callable[[], SqliteConnection]) -> None:
        self._opening = Opening(connector)
        super().__init__(self._opening, iter_chunk_size=64)
        self._stopped: asyncio.Future[Any] | None = None
        thread: Any = getattr(self, "_thread", self)  # in older releases the connection is the thread
        thread.daemon = True

    def __await__(self) -> Generator[Any, None, Self]:
        """Connect. Where that fails, the thread's end is waited for: it reports to a loop that may soon be closed."""
        try:
            yield from super().__await__()
        except BaseException:
            self._opening.give_up()
            if self._stopped is not None:
                yield from self._stopped
            raise
        return self

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread once it has done what it was handed."""
        self._stopped = super().stop()
        return self._stopped

    async def call(self, job: Callable[[SqliteConnection], T]) -> T:
        """Run a function on the connection, in its thread, at one snapshot."""
        connection = self._conn

        def work() -> T:
            connection.execute("BEGIN")
            try:
                return job(connection)
            finally:
                connection.execute("ROLLBACK")

        execute: Callable[[Callable[[], T]], Awaitable[T]] = self._execute
        return await execute(work)

    def __del__(self) -> None:
        if self._connection is not None:
            self.stop()
