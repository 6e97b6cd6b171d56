"""Stage 1: a credential is a badge, and the settings say who holds which."""

from __future__ import annotations

from pydantic import Field

from meshflow.plugin import Decision, Plugin, Principal, Settings, StepContext, hookimpl


class BadgeSettings(Settings):
    holders: dict[str, str] = Field(default_factory=lambda: {"badge-7": "alice"}, description="Holder by badge.")


class BadgeIdentity(Plugin[BadgeSettings]):
    """Allows the holders of known badges."""

    settings_type = BadgeSettings

    @hookimpl
    async def verify_identity(self, context: StepContext) -> Decision:
        holder = self.settings.holders.get(context.step.credential or "")
        if holder is None:
            return Decision.deny("identity_verification.no_badge", "show a badge that plugins.badges.holders lists")
        return Decision.allow(fact=Principal(holder, context.step.agent_id, issuer="badges", verified=True))
