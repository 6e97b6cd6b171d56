"""Guardrails on inputs and outputs: injections, hidden text, length, schema, own rules, exfiltration, canaries."""

from meshflow_guardrails.codes import CODES
from meshflow_guardrails.plugin import GuardrailsPlugin
from meshflow_guardrails.settings import GuardrailsSettings, HiddenAction, Rule, RuleAction

__all__ = ["CODES", "GuardrailsPlugin", "GuardrailsSettings", "HiddenAction", "Rule", "RuleAction"]
