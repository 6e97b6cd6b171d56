"""Stage 10: what comes by mail is external, all else is the user's."""

from __future__ import annotations

from meshflow.plugin import Decision, NoSettings, Origin, Plugin, StepContext, TaintLabels, hookimpl


class MailIsExternal(Plugin[NoSettings]):
    """Reads metadata.channel, and never lowers the labels that the step brings."""

    @hookimpl
    async def propagate_taint(self, context: StepContext) -> Decision:
        step = context.step
        mail = step.metadata.get("channel") == "mail"
        labels = TaintLabels(Origin.EXTERNAL, sources=("mail",)) if mail else TaintLabels(Origin.USER)
        return Decision.allow(fact=labels.join(step.labels) if step.labels is not None else labels)
