"""Rego policies: the default provider of stage 5, which also answers at stages 6, 11 and 13."""

from meshflow_rego.candidate import CandidatePlugin, CandidateSettings
from meshflow_rego.codes import CODES
from meshflow_rego.plugin import RegoPlugin
from meshflow_rego.settings import RegoSettings

__all__ = ["CODES", "CandidatePlugin", "CandidateSettings", "RegoPlugin", "RegoSettings"]
