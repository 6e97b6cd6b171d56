"""Settings of the tenancy plugin, with tenant ids checked when they are loaded."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from meshflow.plugin import Settings

TENANT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _tenant_id(value: str) -> str:
    if not TENANT_ID.fullmatch(value):
        raise ValueError(
            f"a tenant id is 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit, not {value!r}"
        )
    return value


TenantId = Annotated[str, AfterValidator(_tenant_id)]


class TenancySettings(Settings):
    """What ``plugins.tenancy`` may say."""

    default: TenantId | None = Field(
        default="default",
        description="Tenant of an unverified local step that names none; null denies such a step.",
    )
    default_for_verified: bool = Field(
        default=False,
        description="Give the default tenant also to a verified principal whose credential carries no tenant claim.",
    )
    known: tuple[TenantId, ...] | None = Field(
        default=None,
        description="The only tenants that may act; null lets any well-formed tenant id pass.",
    )
    suspended: tuple[TenantId, ...] = Field(
        default=(),
        description="Tenants whose every step is denied, listed in known or not.",
    )
