"""Compliance profile packs: the default provider of stage 6."""

from meshflow_compliance.codes import CODES
from meshflow_compliance.manifest import Control, Gap, Manifest
from meshflow_compliance.packs import Pack, find_pack, pack_names
from meshflow_compliance.plugin import CompliancePlugin
from meshflow_compliance.settings import ComplianceSettings, ProfileUse

__all__ = [
    "CODES", "CompliancePlugin", "ComplianceSettings", "Control", "Gap", "Manifest", "Pack", "ProfileUse", "find_pack",
    "pack_names",
]  # fmt: skip
