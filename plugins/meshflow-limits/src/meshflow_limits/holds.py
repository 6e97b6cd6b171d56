"""Which holds an instance of the plugin has open, and by which time it counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import count
from secrets import token_hex

from meshflow.plugin import Clock, StepContext
from meshflow_limits.store import Amount

StepKey = tuple[str | None, str, str, int]


class SteadyTime:
    """Wall time as it was at first use, carried on by the monotonic clock.

    A wall clock that is set back must not open an old window again, and one that was set ahead must not freeze it.
    """

    __slots__ = ("_offset_us",)

    def __init__(self) -> None:
        self._offset_us: int | None = None

    def now_us(self, clock: Clock) -> int:
        """Return microseconds since the epoch that never step back."""
        steady_us = clock.monotonic_ns() // 1_000
        if self._offset_us is None:
            self._offset_us = clock.now_us() - steady_us
        return self._offset_us + steady_us


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold that a step has; ``hold_id`` is None for a step that was refused."""

    context: StepContext
    hold_id: str | None
    amount: Amount


class OpenHolds:
    """Which step has which hold of this instance.

    Steps are told apart by their context, since nothing keeps a caller from handing in two steps with one run id, step
    id and attempt at once, and the end of one, refused, must not give back what the other still spends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instance = token_hex(6)
        self._numbers = count(1)
        self._by_step: dict[StepKey, list[OpenHold]] = {}

    def new_id(self) -> str:
        """Return an id that no other instance or process gives."""
        return f"hold-{self._instance}-{next(self._numbers)}"

    def note(self, context: StepContext, hold_id: str, amount: Amount) -> None:
        """Note a hold of the step."""
        with self._lock:
            self._by_step.setdefault(_key(context), []).append(OpenHold(context, hold_id, amount))

    def refuse(self, context: StepContext, hold_id: str) -> None:
        """Note that the hold was not granted."""
        with self._lock:
            entries = self._by_step[_key(context)]
            at = next(at for at, entry in enumerate(entries) if entry.hold_id == hold_id)
            entries[at] = OpenHold(context, None, entries[at].amount)

    def take(self, context: StepContext, *, granted: bool) -> OpenHold | None:
        """Take the step's hold off the list; None where it has none.

        A host may end a step by another view of it than it began with. If this one was ``granted`` a hold, and only one
        is open under its key, that is the one.
        """
        key = _key(context)
        with self._lock:
            entries = self._by_step.get(key, [])
            entry = next((entry for entry in entries if entry.context is context), None)
            if entry is None and granted and len(entries) == 1:
                entry = entries[0]
            if entry is None:
                return None
            entries.remove(entry)
            if not entries:
                del self._by_step[key]
            return entry if entry.hold_id is not None else None


def _key(context: StepContext) -> StepKey:
    return context.tenant_id, context.run_id, context.step_id, context.attempt
