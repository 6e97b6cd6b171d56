"""Stage 4: a run may take so many steps, whatever they cost."""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from meshflow.plugin import BudgetReservation, Decision, Host, Plugin, Settings, StepContext, hookimpl


class StepCountSettings(Settings):
    steps: int = Field(default=3, ge=0, description="Steps that one run may take.")


class StepCount(Plugin[StepCountSettings]):
    """Counts each step once, in memory; a step that only looks is not counted."""

    settings_type = StepCountSettings

    def __init__(self, settings: StepCountSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._taken: Counter[str] = Counter()

    @hookimpl
    async def check_budget(self, context: StepContext) -> Decision:
        if self._taken[context.run_id] >= self.settings.steps:
            return Decision.deny("budget_check.steps", f"the run has taken its {self.settings.steps} steps")
        if not context.look_only:
            self._taken[context.run_id] += 1
        return Decision.allow(fact=BudgetReservation(f"step-{context.step_id}"))
