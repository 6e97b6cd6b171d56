"""Stage 2: the tenant is what stands before the slash in the agent's id."""

from __future__ import annotations

from meshflow.plugin import Decision, NoSettings, Plugin, StepContext, TenantScope, hookimpl


class TenantByAgent(Plugin[NoSettings]):
    """Puts acme/helper into acme; an agent without a slash belongs to nobody and is denied."""

    @hookimpl
    async def scope_tenant(self, context: StepContext) -> Decision:
        principal = context.principal
        tenant, slash, _ = (principal.agent_id if principal is not None else "").partition("/")
        if not slash or not tenant.isascii() or not tenant.isalnum():
            return Decision.deny("tenant_scoping.no_tenant", "the agent's id must read tenant/name")
        return Decision.allow(fact=TenantScope(tenant))
