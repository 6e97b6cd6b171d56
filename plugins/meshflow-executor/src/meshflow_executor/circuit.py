"""Circuit breakers: what keeps failing is left alone for a while, then tried once."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

_MAX_CIRCUITS = 10_000


class Pass(Enum):
    """How an execution got through: freely, as the one try of a half-open circuit, or not at all."""

    FREE = "free"
    PROBE = "probe"
    REFUSED = "refused"


class _State:
    __slots__ = ("failures", "open_until_ns", "probing")

    def __init__(self) -> None:
        self.failures = 0
        self.open_until_ns: int | None = None
        self.probing = False


class Circuits:
    """The circuits of all keys. Only keys with failures take memory, and those that failed longest ago go first."""

    def __init__(self) -> None:
        self._states: OrderedDict[tuple[str, str], _State] = OrderedDict()

    def enter(self, key: tuple[str, str], now_ns: int) -> Pass:
        """Ask whether an execution may begin. Each answer but REFUSED must be followed by ``leave``."""
        if not self._states:
            return Pass.FREE
        state = self._states.get(key)
        if state is None or state.open_until_ns is None:
            return Pass.FREE
        if now_ns < state.open_until_ns or state.probing:
            return Pass.REFUSED
        state.probing = True
        return Pass.PROBE

    def leave(self, key: tuple[str, str], passed: Pass, ok: bool | None, limit: int, until_ns: int) -> None:
        """Count how an execution ended; ``ok`` is None where it says nothing, as when the caller cancelled it."""
        state = self._states.get(key) if self._states else None
        if passed is Pass.PROBE and state is not None:
            state.probing = False
            if ok is False:
                state.open_until_ns = until_ns
        if ok and state is not None and (passed is Pass.PROBE or state.open_until_ns is None):
            del self._states[key]
        elif ok is False and passed is Pass.FREE and limit:
            self._count(key, state, limit, until_ns)

    def _count(self, key: tuple[str, str], state: _State | None, limit: int, until_ns: int) -> None:
        if state is None:
            state = self._states[key] = _State()
            if len(self._states) > _MAX_CIRCUITS:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(key)
        state.failures += 1
        if state.open_until_ns is None and state.failures >= limit:
            state.open_until_ns = until_ns
