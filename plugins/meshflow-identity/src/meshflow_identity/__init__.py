"""Agent identity: the default provider of stage 1."""

from meshflow_identity.codes import CODES
from meshflow_identity.plugin import IdentityPlugin
from meshflow_identity.settings import IdentitySettings, KeySettings

__all__ = ["CODES", "IdentityPlugin", "IdentitySettings", "KeySettings"]
