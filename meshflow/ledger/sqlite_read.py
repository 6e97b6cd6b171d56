"""The read connection of a SQLite ledger."""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection as SqliteConnection
from typing import Any

import aiosqlite


class Reader(aiosqlite.Connection):
    """An aiosqlite connection that a forgotten ``aclose`` cannot turn into a hanging process.

    Its thread would otherwise be waited for at the interpreter's exit, before anything could close it. Reads may be
    cut off at any point, so the thread is a daemon.
    """

    def __init__(self, connector: Callable[[], SqliteConnection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        thread: Any = getattr(self, "_thread", self)  # in older releases the connection is the thread
        thread.daemon = True

    def __del__(self) -> None:
        if self._connection is not None:
            self.stop()
