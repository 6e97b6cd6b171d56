"""One object for each of a few threads, for libraries whose objects may be used and freed only where they were made."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Generic, TypeVar

from meshflow.policy.worker import Cell

T = TypeVar("T")


class _Cells(threading.local):
    """The cells of one thread, by owner's ticket. They are freed on their thread: at its end, or when it next asks."""

    def __init__(self) -> None:
        self.by_ticket: dict[object, Cell[Any]] = {}


_cells = _Cells()
_open: set[object] = set()


class PerThread(Generic[T]):
    """Gives each of up to ``most`` living threads a cell of its own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._threads: list[weakref.ref[threading.Thread]] = []
        self._reopen()

    def claim(self) -> Cell[T] | None:
        """Return this thread's cell, empty at first; None where other threads have taken all there are."""
        cell: Cell[T] | None = _cells.by_ticket.get(self._ticket)
        return cell if cell is not None else self._claim()

    def close(self) -> None:
        """Give all cells up. Asked again, it begins anew."""
        _cells.by_ticket.pop(self._ticket, None)
        self._finalizer()
        self._threads.clear()
        self._reopen()

    def _claim(self) -> Cell[T] | None:
        for ticket in [one for one in _cells.by_ticket if one not in _open]:
            del _cells.by_ticket[ticket]
        with self._lock:
            self._threads = [one for one in self._threads if (thread := one()) is not None and thread.is_alive()]
            if len(self._threads) >= self._most:
                return None
            self._threads.append(weakref.ref(threading.current_thread()))
        cell: Cell[T] = Cell()
        _cells.by_ticket[self._ticket] = cell
        return cell

    def _reopen(self) -> None:
        self._ticket = object()
        _open.add(self._ticket)
        self._finalizer = weakref.finalize(self, _open.discard, self._ticket)
