"""One execution's place: what it takes of a circuit and of a cap, and gives back once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshflow.plugin import Clock
from meshflow_executor.circuit import Circuits, Pass
from meshflow_executor.settings import Circuit


class Turn:
    """Gives back exactly once, whether the execution ended, failed, was cancelled, or goes on as a stream."""

    __slots__ = ("_circuit", "_circuits", "_clock", "_handed_over", "_key", "_passed", "release")

    def __init__(self, circuits: Circuits, key: tuple[str, str], passed: Pass, circuit: Circuit, clock: Clock) -> None:
        self._circuits: Circuits | None = circuits
        self._key = key
        self._passed = passed
        self._circuit = circuit
        self._clock = clock
        self._handed_over = False
        self.release: Callable[[], None] | None = None

    def ended(self, ok: bool | None) -> None:
        """Count the execution and give back what it took; ``ok`` is None where it says nothing of the tool."""
        circuits, self._circuits = self._circuits, None
        if circuits is not None:
            until_ns = self._clock.monotonic_ns() + self._circuit.open_ms * 1_000_000 if ok is False else 0
            circuits.leave(self._key, self._passed, ok, self._circuit.failures, until_ns)
        release, self.release = self.release, None
        if release is not None:
            release()

    def hand_over(self) -> Callable[[bool | None], None]:
        """Return what a stream calls when it ends; until then nothing is given back."""
        self._handed_over = True
        return self.ended

    def close(self) -> None:
        """Give back without counting, if nobody has."""
        if not self._handed_over:
            self.ended(None)


class _Cap:
    __slots__ = ("semaphore", "users")

    def __init__(self, most: int) -> None:
        self.semaphore = asyncio.Semaphore(most)
        self.users = 0


class Caps:
    """At most so many executions of a tool at once, for all tenants together: the cap protects the tool."""

    def __init__(self) -> None:
        self._caps: dict[str, _Cap] = {}

    async def take(self, turn: Turn, name: str, most: int, seconds: float) -> bool:
        """Wait for a place; False where the time was up first."""
        cap = self._caps.get(name)
        if cap is None:
            cap = self._caps[name] = _Cap(most)
        cap.users += 1
        taken = False
        try:
            async with asyncio.timeout(seconds):
                taken = await cap.semaphore.acquire()
        except TimeoutError:
            pass
        finally:
            if not taken:
                self._leave(name, cap)
        if taken:
            turn.release = lambda: self._give_back(name, cap)
        return taken

    def _give_back(self, name: str, cap: _Cap) -> None:
        cap.semaphore.release()
        self._leave(name, cap)

    def _leave(self, name: str, cap: _Cap) -> None:
        """Forget a cap that nobody holds or waits for: names come from callers, and there is no end to them."""
        cap.users -= 1
        if not cap.users and self._caps.get(name) is cap:
            del self._caps[name]
