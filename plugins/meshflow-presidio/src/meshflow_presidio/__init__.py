"""Sensitive data: found by Presidio's recognisers and secret patterns, then masked, hashed, encrypted or refused."""

from meshflow_presidio.codes import CODES
from meshflow_presidio.plugin import PresidioPlugin
from meshflow_presidio.settings import Action, PresidioSettings

__all__ = ["CODES", "Action", "PresidioPlugin", "PresidioSettings"]
