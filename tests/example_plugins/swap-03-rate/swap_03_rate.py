"""Stage 3: no steps on Saturday and Sunday, UTC."""

from __future__ import annotations

from meshflow.plugin import Decision, NoSettings, Plugin, RateLease, StepContext, hookimpl

DAY_US = 86_400_000_000
THURSDAY = 3
"""1 January 1970 was one."""


class Weekdays(Plugin[NoSettings]):
    """Allows from Monday to Friday by the runtime's clock."""

    @hookimpl
    async def limit_rate(self, context: StepContext) -> Decision:
        if (context.clock.now_us() // DAY_US + THURSDAY) % 7 >= 5:
            return Decision.deny("rate_limiting.weekend", "agents rest until Monday, UTC")
        return Decision.allow(fact=RateLease({"weekdays": 1}))
