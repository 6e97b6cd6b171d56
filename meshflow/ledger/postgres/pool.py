"""The connections that read: a bounded number of them, each handed to one user at a time."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.postgres.connection import PostgresConnection
from meshflow.ledger.sql.database import LostConnectionError

if TYPE_CHECKING:
    from meshflow.ledger.sql.database import Connection

T = TypeVar("T")
_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


class Pool:
    """Hands out connections; what waits for one waits for ``timeout_ms`` at most. Any loop and thread may use it."""

    def __init__(self, connect: Callable[[], PostgresConnection], size: int, timeout_ms: int, name: str) -> None:
        self._connect = connect
        self._size = size
        self._timeout_ms = timeout_ms
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[PostgresConnection] = []
        self._out = 0
        self._closed = False
        self._pid = os.getpid()
        # As many threads as connections, so that whoever has a connection has a thread.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="meshflow-postgres")

    async def run(self, job: Callable[[PostgresConnection], T]) -> T:
        """Run a function that only reads with a connection, in a thread."""
        await self._reserve()
        future = self._threads.submit(self._use, job)
        future.add_done_callback(lambda done: self._free() if done.cancelled() else None)
        return await asyncio.wrap_future(future)

    async def take(self, ready: Callable[[PostgresConnection], object]) -> PostgresConnection:
        """Return a connection that ``ready`` was called with in a thread; ``give_back`` ends its use."""
        await self._reserve()
        future = self._threads.submit(self._ready, ready)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._take_back)
            raise

    def take_now(self, ready: Callable[[PostgresConnection], object]) -> PostgresConnection:
        """Do the same in a thread of the caller's."""
        deadline = time.monotonic() + self._timeout_ms / 1_000
        while not self._try_reserve():
            if time.monotonic() >= deadline:
                raise self._exhausted()
            time.sleep(_PAUSE_S)
        return self._ready(ready)

    def give_back(self, connection: PostgresConnection) -> None:
        """End the use of a connection; in a thread if this one runs an event loop, since what it began is undone."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._give_back(connection)
        else:
            threading.Thread(target=self._give_back, args=(connection,), daemon=True).start()

    def _give_back(self, connection: PostgresConnection) -> None:
        with suppress(LedgerError):
            if connection.in_transaction:
                connection.script("ROLLBACK")
        with self._lock:
            keep = not (self._closed or connection.lost)
            if keep:
                self._idle.append(connection)
            self._out -= 1
        if not keep:
            connection.close()

    def close(self) -> None:
        """Close what is idle now, and the rest when it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._threads.shutdown(wait=False)

    def _use(self, job: Callable[[PostgresConnection], T]) -> T:
        results: list[T] = []
        self.give_back(self._ready(lambda connection: results.append(job(connection))))
        return results[0]

    def _ready(self, ready: Callable[[PostgresConnection], object]) -> PostgresConnection:
        """Return a connection that is ready; one that was lost while it was idle is replaced by a new one."""
        try:
            while True:
                with self._lock:
                    connection = self._idle.pop() if self._idle else None
                reused = connection is not None
                if connection is None:
                    connection = self._connect()
                try:
                    ready(connection)
                    return connection
                except LostConnectionError:
                    connection.close()
                    if not reused:
                        raise
                except BaseException:
                    self.give_back(connection)
                    with self._lock:
                        self._out += 1  # which is freed below
                    raise
        except BaseException:
            self._free()
            raise

    def _free(self) -> None:
        with self._lock:
            self._out -= 1

    def _take_back(self, future: Future[PostgresConnection]) -> None:
        """Take back what nobody waits for any more."""
        if future.cancelled():
            self._free()
        elif future.exception() is None:
            self.give_back(future.result())

    async def _reserve(self) -> None:
        deadline, pause = time.monotonic() + self._timeout_ms / 1_000, _PAUSE_S
        while not self._try_reserve():
            if time.monotonic() >= deadline:
                raise self._exhausted()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)

    def _try_reserve(self) -> bool:
        with self._lock:
            if self._closed:
                raise LedgerError("the ledger is closed")
            if os.getpid() != self._pid:
                raise LedgerError("this ledger was opened before a fork; make a new ReplayLedger in the child process")
            if self._out >= self._size:
                return False
            self._out += 1
            return True

    def _exhausted(self) -> LedgerError:
        return LedgerError(
            f"ledger {self._name}: all {self._size} reading connections were busy for {self._timeout_ms} ms; raise "
            "pool_size in the URL, or read less at once"
        )


class Lent:
    """A connection of the pool in the hands of one user; closing it gives it back."""

    def __init__(self, pool: Pool, connection: PostgresConnection) -> None:
        self._pool = pool
        self._connection: PostgresConnection | None = connection
        self.execute = connection.execute
        self.executemany = connection.executemany

    @property
    def in_transaction(self) -> bool:
        """Say whether a transaction has begun."""
        return self._connection is not None and self._connection.in_transaction

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


if TYPE_CHECKING:

    def _is_a_connection(lent: Lent) -> Connection:
        return lent
