"""Opening a connection in a thread, for somebody who may have gone when it is open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from sqlite3 import Connection


class Opening:
    """Called in a thread, it opens; whichever comes last, the connection or ``give_up``, closes what nobody wants."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._made: Connection | None = None
        self._unwanted = False

    def __call__(self) -> Connection:
        """Open the connection."""
        made = self._opened()
        with self._lock:
            self._made = made
            if self._unwanted:
                made.close()
        return made

    def give_up(self) -> None:
        """Close the connection now, or once it is open."""
        with self._lock:
            self._unwanted = True
            if self._made is not None:
                self._made.close()
