"""Stage 11: tools that are listed may be called."""

from __future__ import annotations

from pydantic import Field

from meshflow.plugin import Decision, Plugin, Settings, StepContext, hookimpl


class ToolListSettings(Settings):
    tools: tuple[str, ...] = Field(default=("crm.get_customer",), description="Tools that may be called.")


class ToolList(Plugin[ToolListSettings]):
    """Allows what calls no tool, and the tools of the list."""

    settings_type = ToolListSettings

    @hookimpl
    async def authorize_tool(self, context: StepContext) -> Decision:
        if context.step.tool is None or context.step.tool in self.settings.tools:
            return Decision.allow()
        return Decision.deny("tool_permission.not_listed", "the tool is not in plugins.tool-list.tools")
