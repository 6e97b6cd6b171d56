"""Stage 13: a text that leaves is stamped, and a confession does not leave."""

from __future__ import annotations

from typing import Any

from meshflow.plugin import Decision, NoSettings, Plugin, StepContext, hookimpl


class Checked(Plugin[NoSettings]):
    """A stream is looked at and not stamped: its parts have gone out by the time that it is whole."""

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
        if not isinstance(output, str):
            return None
        if "as a language model" in output:
            return Decision.deny("output_guardrails.confession", "the output says what wrote it")
        return Decision.allow(replacement=f"{output} [checked]") if context.stream is None else Decision.allow()
