"""Compliance profile packs: the default provider of stage 6."""

from meshflow_compliance.codes import CODES
from meshflow_compliance.plugin import CompliancePlugin
from meshflow_compliance.settings import ComplianceSettings, ProfileUse

__all__ = ["CODES", "CompliancePlugin", "ComplianceSettings", "ProfileUse"]
