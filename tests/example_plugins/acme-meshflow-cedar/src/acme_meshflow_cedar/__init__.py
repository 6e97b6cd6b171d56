"""Cedar policies at stage 5 of meshflow."""

from acme_meshflow_cedar.codes import CODES
from acme_meshflow_cedar.plugin import CedarPolicy
from acme_meshflow_cedar.settings import CedarSettings

__all__ = ["CODES", "CedarPolicy", "CedarSettings"]
