"""A connection over asyncpg for one thread at a time, on an event loop of its own that runs while a call waits.

No thread stands between caller and socket, so a call costs no hand-over; the loop belongs to nobody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.ledger.postgres.nul import as_written, storable
from meshflow.ledger.postgres.translate import Statement, translate
from meshflow.ledger.sql.database import LostConnectionError

if TYPE_CHECKING:
    import asyncpg

    from meshflow.ledger.sql.database import Connection, Cursor

T = TypeVar("T")
_CONNECT_S = 10.0
_CLOSE_S = 2.0
_KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 40_000))


class PostgresConnection:
    """Runs the ledger's SQL; failures come as LedgerError, explained."""

    def __init__(self, dsn: str, name: str, settings: Mapping[str, str]) -> None:
        import asyncpg

        self._name = name
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self.tenant = ""
        self.lost = False
        self.checked = False
        try:
            self._raw: asyncpg.Connection[asyncpg.Record] = self.run(
                asyncpg.connect(dsn, timeout=_CONNECT_S, server_settings=dict(settings))
            )
        except BaseException:
            self._loop.close()
            raise
        _keep_alive(self._raw)

    def run(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for the driver, and explain what it raises."""
        from meshflow.ledger.postgres.failures import FAILURES, explain

        try:
            return self._loop.run_until_complete(waiting)
        except FAILURES as error:
            explained = explain(error, self._name)
            self.lost = self.lost or isinstance(explained, LostConnectionError)
            raise explained from error.with_traceback(None)  # whose frames may hold the password

    @property
    def in_transaction(self) -> bool:
        """Say whether a transaction has begun."""
        return not self.lost and not self._raw.is_closed() and self._raw.is_in_transaction()

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        """Run a statement; one that reads is run when its rows are asked for."""
        statement = translate(sql)
        values = list(map(storable, statement.values(parameters)))
        if statement.reads:
            return PostgresCursor(self, self._raw, statement, values)
        self.run(self._raw.execute(statement.text, *values))
        return PostgresCursor(self, self._raw, statement, values, [])

    def executemany(self, sql: str, rows: Iterable[Any], /) -> None:
        """Run a statement for each row of values."""
        self.run(self._raw.executemany(translate(sql).text, list(rows)))

    def script(self, text: str) -> str:
        """Run statements of PostgreSQL's own, without values, in one exchange; return what the last one said."""
        return str(self.run(self._raw.execute(text)))

    def see(self, tenant: str) -> None:
        """Have the rows of one tenant shown alone from now on, or with an empty name all."""
        if tenant != self.tenant:
            self.execute("SELECT set_config('meshflow.tenant', ?, false)", (tenant,)).fetchall()
            self.tenant = tenant

    def close(self) -> None:
        """End the session."""
        if self._loop.is_closed() or os.getpid() != self._pid:
            return
        with suppress(Exception):  # what is not closed well is cut off
            self._loop.run_until_complete(self._raw.close(timeout=_CLOSE_S))
        self._cut()

    def _cut(self) -> None:
        """Close the socket at once; in a thread if this one runs another event loop, as where garbage is collected."""
        if asyncio._get_running_loop() is None:
            _end(self._raw, self._loop)
        else:
            ending = threading.Thread(target=_end, args=(self._raw, self._loop))
            ending.start()
            ending.join()

    def __del__(self) -> None:
        if hasattr(self, "_raw") and not self._loop.is_closed() and os.getpid() == self._pid:
            with suppress(Exception):  # at the interpreter's end there may be nothing left to cut it off with
                self._cut()


class PostgresCursor:
    """The rows of a statement: all at once, or with ``fetchmany`` as they come out of a portal of the server."""

    def __init__(
        self, connection: PostgresConnection, raw: asyncpg.Connection[asyncpg.Record], statement: Statement,
        values: Sequence[Any], rows: list[Any] | None = None,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._raw = raw
        self._statement = statement
        self._values = values
        self._rows = rows
        self._portal: Any = None

    def _all(self) -> list[Any]:
        if self._rows is None:
            found = self._connection.run(self._raw.fetch(self._statement.text, *self._values))
            self._rows = as_written(list(map(tuple, found)))
        return self._rows

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        rows = self._all()
        return rows.pop(0) if rows else None

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        rows, self._rows = self._all(), []
        return rows

    def fetchmany(self, size: int, /) -> list[Any]:
        """Return the next rows of a portal, which needs a transaction."""
        if self._portal is None:
            self._portal = self._connection.run(_open(self._raw, self._statement.text, self._values))
        return as_written(list(map(tuple, self._connection.run(self._portal.fetch(size)))))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


def _end(raw: asyncpg.Connection[asyncpg.Record], loop: asyncio.AbstractEventLoop) -> None:
    raw.terminate()
    loop.run_until_complete(asyncio.sleep(0))  # the socket closes in a callback
    loop.close()


async def _open(raw: asyncpg.Connection[asyncpg.Record], text: str, values: Sequence[Any]) -> Any:
    return await raw.cursor(text, *values)


def _keep_alive(raw: asyncpg.Connection[asyncpg.Record]) -> None:
    """Have the system notice a server that went away without a word."""
    found = raw._transport.get_extra_info("socket")  # no public way to it
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        if hasattr(socket, option):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


if TYPE_CHECKING:

    def _is_a_connection(connection: PostgresConnection) -> Connection:
        return connection
