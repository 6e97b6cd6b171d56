"""The runs that a process is at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from meshflow.record import StepRecord


@dataclass(slots=True)
class LiveRun:
    """A run under way: what it is of, since when, and what it has done so far."""

    run_id: str
    what: str
    started_us: int
    steps: int = 0
    blocked: int = 0
    cost_micro_usd: int = 0
    tokens: int = 0
    last_node: str = ""
    cancelled: bool = False
    _cancel: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, repr=False)


class LiveRuns:
    """Knows them by id."""

    def __init__(self) -> None:
        self._runs: dict[str, LiveRun] = {}

    @contextmanager
    def entered(self, run_id: str, what: str, at_us: int) -> Iterator[asyncio.Event]:
        """Count a run in for as long as it goes on; gives the event that asks it to end."""
        run = self._runs[run_id] = LiveRun(run_id, what, at_us)
        try:
            yield run._cancel
        finally:
            if self._runs.get(run_id) is run:
                del self._runs[run_id]

    def step(self, record: StepRecord) -> None:
        """Count a step of a run, if it is one of these."""
        run = self._runs.get(record.run_id)
        if run is not None:
            run.steps += 1
            run.blocked += record.blocked
            run.cost_micro_usd += record.cost_micro_usd
            run.tokens += record.tokens
            run.last_node = record.node_id

    def cancel(self, run_id: str) -> bool:
        """Ask a run to end, from any thread; False where there is none."""
        run = self._runs.get(run_id)
        if run is None:
            return False
        run.cancelled = True
        if not run._loop.is_closed():
            run._loop.call_soon_threadsafe(run._cancel.set)
        return True

    def all(self) -> tuple[LiveRun, ...]:
        """Return them, the oldest first."""
        return tuple(self._runs.values())
