"""Tenant scoping: the default provider of stage 2."""

from meshflow_tenancy.codes import CODES
from meshflow_tenancy.plugin import TenancyPlugin
from meshflow_tenancy.settings import TenancySettings

__all__ = ["CODES", "TenancyPlugin", "TenancySettings"]
