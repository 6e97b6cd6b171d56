"""Stage 5: what is on the list may be done, by anyone."""

from __future__ import annotations

from pydantic import Field

from meshflow.plugin import Decision, Plugin, Settings, StepContext, hookimpl


class ActionSettings(Settings):
    actions: tuple[str, ...] = Field(default=("read",), description="Actions that are allowed.")


class ListedActions(Plugin[ActionSettings]):
    """Denies every action that is not listed, and steps without one."""

    settings_type = ActionSettings

    @hookimpl
    async def evaluate_policy(self, context: StepContext) -> Decision:
        if context.step.action in self.settings.actions:
            return Decision.allow(reason="the action is listed")
        return Decision.deny("policy_evaluation.not_listed", f"allowed are {list(self.settings.actions)}")
