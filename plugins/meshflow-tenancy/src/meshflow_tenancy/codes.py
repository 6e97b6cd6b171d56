"""The denial codes of this plugin and what they mean."""

from __future__ import annotations

from typing import Final

NO_PRINCIPAL: Final = "tenant_scoping.no_principal"
INVALID_TENANT: Final = "tenant_scoping.invalid_tenant"
CONTRADICTS_CLAIM: Final = "tenant_scoping.contradicts_claim"
MISSING_TENANT: Final = "tenant_scoping.missing_tenant"
UNKNOWN_TENANT: Final = "tenant_scoping.unknown_tenant"
SUSPENDED: Final = "tenant_scoping.suspended"

CODES: Final[dict[str, str]] = {
    NO_PRINCIPAL: "No earlier stage said who asks, so nobody can be assigned to a tenant.",
    INVALID_TENANT: "The tenant is not an id of 1 to 64 letters, digits, dots, underscores and hyphens.",
    CONTRADICTS_CLAIM: "The step names another tenant than the credential does.",
    MISSING_TENANT: "Neither the credential nor the step names a tenant, and no default applies.",
    UNKNOWN_TENANT: "The tenant is not among those listed in the settings.",
    SUSPENDED: "The tenant has been suspended in the settings.",
}
