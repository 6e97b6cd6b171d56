"""A ledger that remembers what one invocation wrote, so that its report speaks of that alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshflow.ledger import Intent, ReplayLedger, Written
from meshflow.record import StepRecord


class WatchedLedger(ReplayLedger):
    """Notes the place of each step it wrote, the intents still without an outcome, and the writes that failed."""

    def __init__(self, ledger: ReplayLedger) -> None:
        # Everything that the plugin made of its settings stays as it is; only the two methods below are put before it.
        self.__dict__.update(ledger.__dict__)
        self._made = ledger  # what closes a forgotten ledger is tied to the life of this object
        self.places: dict[str, set[int]] = {}
        self.unfinished_intents: dict[tuple[str, str, int], Intent] = {}
        self.failed_writes = 0

    async def write(self, step: StepRecord | Mapping[str, Any]) -> Written:
        """Record a step and note where it stands."""
        try:
            written = await super().write(step)
        except BaseException:
            self.failed_writes += 1
            raise
        self.places.setdefault(written.run_id, set()).add(written.seq)
        if isinstance(step, StepRecord):
            self.unfinished_intents.pop((step.run_id, step.step_id, step.attempt), None)
        return written

    async def write_intent(self, intent: Intent) -> Written:
        """Record an intent and note that its outcome is still to come."""
        written = await super().write_intent(intent)
        self.unfinished_intents[intent.run_id, intent.step_id, intent.attempt] = intent
        return written

    async def steps_written(self, run_id: str) -> list[dict[str, Any]]:
        """Return the steps of a run that were written through this object, as the ledger holds them."""
        places = self.places.get(run_id, set())
        return [step for step in await self.get_run(run_id) if step["seq"] in places]
