"""Which run a token belongs to: the first that showed it."""

from __future__ import annotations

import heapq
import threading
from enum import Enum

TokenKey = tuple[str, str]


class Binding(Enum):
    """How showing a token in a run went."""

    HELD = "held"
    OTHER_RUN = "other_run"
    FORGOTTEN = "forgotten"
    FULL = "full"


class _Book:
    """What several RunBindings of one process share: a reload does not free a token for another run."""

    __slots__ = ("dropped_to_us", "expiries", "lock", "runs")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs: dict[TokenKey, str] = {}
        self.expiries: list[tuple[int, TokenKey]] = []
        self.dropped_to_us = 0


class RunBindings:
    """Binds tokens to runs until they expire, at most so many at once.

    A binding that has been dropped must not come free again when the wall clock is set back: a token that would have
    been dropped by now, and is not known, is FORGOTTEN. One made with ``previous`` goes on with its bindings.
    """

    def __init__(self, most: int, previous: RunBindings | None = None) -> None:
        self._most = most
        self._book: _Book = previous._book if previous is not None else _Book()

    def show(self, token: TokenKey, run: str, expires_us: int, now_us: int, *, bind: bool) -> Binding:
        """Say whether the token may be used in the run, and bind it if ``bind`` and it is new."""
        with self._book.lock:
            bound = self._book.runs.get(token)
            if bound is not None:
                return Binding.HELD if bound == run else Binding.OTHER_RUN
            if expires_us <= self._book.dropped_to_us:
                return Binding.FORGOTTEN
            if not bind:
                return Binding.HELD
            self._drop_expired(now_us)
            if len(self._book.runs) >= self._most:
                return Binding.FULL
            self._book.runs[token] = run
            heapq.heappush(self._book.expiries, (expires_us, token))
            return Binding.HELD

    def __len__(self) -> int:
        return len(self._book.runs)

    def _drop_expired(self, now_us: int) -> None:
        while self._book.expiries and self._book.expiries[0][0] <= now_us:
            expires_us, token = heapq.heappop(self._book.expiries)
            self._book.dropped_to_us = max(self._book.dropped_to_us, expires_us)
            del self._book.runs[token]
