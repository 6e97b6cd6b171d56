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


class RunBindings:
    """Binds tokens to runs until they expire, at most so many at once.

    A binding that has been dropped must not come free again when the wall clock is set back: a token that would have
    been dropped by now, and is not known, is FORGOTTEN.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._runs: dict[TokenKey, str] = {}
        self._expiries: list[tuple[int, TokenKey]] = []
        self._dropped_to_us = 0

    def show(self, token: TokenKey, run: str, expires_us: int, now_us: int, *, bind: bool) -> Binding:
        """Say whether the token may be used in the run, and bind it if ``bind`` and it is new."""
        with self._lock:
            bound = self._runs.get(token)
            if bound is not None:
                return Binding.HELD if bound == run else Binding.OTHER_RUN
            if expires_us <= self._dropped_to_us:
                return Binding.FORGOTTEN
            if not bind:
                return Binding.HELD
            self._drop_expired(now_us)
            if len(self._runs) >= self._most:
                return Binding.FULL
            self._runs[token] = run
            heapq.heappush(self._expiries, (expires_us, token))
            return Binding.HELD

    def __len__(self) -> int:
        return len(self._runs)

    def _drop_expired(self, now_us: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_us:
            expires_us, token = heapq.heappop(self._expiries)
            self._dropped_to_us = max(self._dropped_to_us, expires_us)
            del self._runs[token]
