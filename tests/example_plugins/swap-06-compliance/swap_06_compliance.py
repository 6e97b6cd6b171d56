"""Stage 6: tenants without a data processing agreement may not let agents act."""

from __future__ import annotations

from pydantic import Field

from meshflow.plugin import ComplianceProfile, Decision, Plugin, Settings, StepContext, hookimpl


class ContractSettings(Settings):
    signed: tuple[str, ...] = Field(default=("default",), description="Tenants that have signed.")


class Contracts(Plugin[ContractSettings]):
    """Names the agreement as a profile in force, or denies."""

    settings_type = ContractSettings

    @hookimpl
    async def apply_compliance_profile(self, context: StepContext) -> Decision:
        if context.tenant_id not in self.settings.signed:
            return Decision.deny("compliance_profile.unsigned", "the tenant has signed no data processing agreement")
        return Decision.allow(fact=ComplianceProfile(("agreement",), "v1", ("Art. 28 GDPR",)))
