"""Stage 9: a tool is as dangerous as its name sounds."""

from __future__ import annotations

from meshflow.plugin import Decision, NoSettings, Plugin, RiskTier, StepContext, hookimpl

TIERS = {"get": RiskTier.READ_ONLY, "set": RiskTier.INTERNAL, "send": RiskTier.EXTERNAL_IO}


class RiskByName(Plugin[NoSettings]):
    """Reads the last part of the name up to an underscore; a word it does not know is irreversible."""

    @hookimpl
    async def classify_risk(self, context: StepContext) -> Decision:
        if context.step.tool is None:
            return Decision.allow(fact=RiskTier.INTERNAL)
        verb = context.step.tool.rpartition(".")[2].partition("_")[0]
        return Decision.allow(fact=TIERS.get(verb, RiskTier.IRREVERSIBLE))
