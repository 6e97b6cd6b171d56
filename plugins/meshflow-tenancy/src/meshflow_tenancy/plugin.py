"""Stage 2: derive the tenant of a step from who asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshflow.plugin import Decision, Host, Plugin, Principal, StepContext, TenantScope, TenantScoper, hookimpl
from meshflow_tenancy import codes
from meshflow_tenancy.settings import TENANT_ID, TenancySettings


class TenancyPlugin(Plugin[TenancySettings]):
    """Scopes each step to one tenant.

    A verified principal's claim decides; what the step says may repeat it, never replace it. An unverified local
    principal belongs to whichever tenant the step names, since nothing better is known of it.
    """

    settings_type = TenancySettings

    def __init__(self, settings: TenancySettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._known = None if settings.known is None else frozenset(settings.known)
        self._suspended = frozenset(settings.suspended)

    def assures(self) -> Mapping[str, Any]:
        """Vouch for a closed list of tenants, where there is one."""
        return {"known_tenants": self._known is not None}

    @hookimpl
    async def scope_tenant(self, context: StepContext) -> Decision:
        """Answer with the tenant that the step belongs to, or deny."""
        principal = context.principal
        if principal is None:
            return Decision.deny(codes.NO_PRINCIPAL, "stage 1 left no principal; enable an identity provider")
        asked = context.step.tenant
        claimed = principal.tenant
        if asked is not None and not _well_formed(asked):
            return _invalid("the step")
        if claimed is not None and not _well_formed(claimed):
            return _invalid("the credential")
        tenant = claimed if claimed is not None else self._unclaimed(principal, asked)
        if tenant is None:
            return self._missing(principal)
        if asked is not None and asked != tenant:
            return Decision.deny(
                codes.CONTRADICTS_CLAIM,
                f"the step asks for tenant {asked!r} but belongs to {tenant!r}; leave tenant= out or make them equal",
                evidence={"asked": asked, "tenant": tenant},
            )
        return self._admit(tenant)

    def _unclaimed(self, principal: Principal, asked: str | None) -> str | None:
        if principal.verified:
            return self.settings.default if self.settings.default_for_verified else None
        return asked if asked is not None else self.settings.default

    def _missing(self, principal: Principal) -> Decision:
        if principal.verified:
            reason = "the credential has no tenant claim; issue it with one or set plugins.tenancy.default_for_verified"
        else:
            reason = "the step names no tenant; pass tenant= or set plugins.tenancy.default"
        return Decision.deny(codes.MISSING_TENANT, reason)

    def _admit(self, tenant: str) -> Decision:
        if tenant in self._suspended:
            return Decision.deny(
                codes.SUSPENDED,
                f"tenant {tenant!r} is suspended; take it out of plugins.tenancy.suspended to let it act again",
                evidence={"tenant": tenant},
            )
        if self._known is not None and tenant not in self._known:
            return Decision.deny(
                codes.UNKNOWN_TENANT,
                f"tenant {tenant!r} is not listed; add it to plugins.tenancy.known",
                evidence={"tenant": tenant},
            )
        return Decision.allow(fact=TenantScope(tenant))


def _well_formed(tenant: object) -> bool:
    return isinstance(tenant, str) and TENANT_ID.fullmatch(tenant) is not None


def _invalid(source: str) -> Decision:
    # The value itself stays out of the reason: it may be anything, of any length.
    return Decision.deny(
        codes.INVALID_TENANT,
        f"the tenant that {source} names is not 1 to 64 letters, digits, '.', '_' and '-', "
        "beginning with a letter or digit",
        evidence={"source": source},
    )


if TYPE_CHECKING:
    _: TenantScoper = TenancyPlugin(TenancySettings())
