"""What a profile pack may require of a pipeline, by name: who vouches for it, how strict it is, what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from meshflow.config.problems import unknown
from meshflow.facts import RiskTier

_BOOLEAN = (False, True)
_TIERS = ("never", *reversed([tier.label for tier in RiskTier]))


@dataclass(frozen=True, slots=True)
class Assurance:
    """One name that ``Plugin.assures`` may say, with its values from the weakest to the strictest."""

    name: str
    stage: str
    setting: tuple[str, ...]
    """Where the default plugin of the stage is told to do it."""
    means: str
    advice: str
    values: tuple[Any, ...] = _BOOLEAN

    def strictness(self, value: Any) -> int:
        """Return the value's place among ``values``; -1, weaker than all, for one that is none of them."""
        return next((place for place, one in enumerate(self.values) if one is value or one == value), -1)

    def shown(self, value: Any) -> str:
        """Return how a message names what is wanted."""
        return self.name if value is True else f"{self.name}: {value}"


_KNOWN = (
    ("verified_identity", "identity_verification", "plugins.identity.keys",
     "Every principal is backed by a credential that was verified.", "set keys or jwks_file, issuer and audience"),
    ("token_bound_to_run", "identity_verification", "plugins.identity.bind_to_run",
     "A credential serves one run, so that one that leaks is of little use.",
     "set keys, and leave bind_to_run at true"),
    ("revocable_identity", "identity_verification", "plugins.identity.revocation_file",
     "Credentials and subjects can be revoked while the process runs.", "set keys and a revocation_file"),
    ("known_tenants", "tenant_scoping", "plugins.tenancy.known",
     "Only tenants that are listed may act.", "list the tenants in known"),
    ("rates_limited", "rate_limiting", "limits.rates", "At least one rate limit is set.", "set a rate"),
    ("spending_capped", "budget_check", "limits.caps",
     "At least one cap on money, tokens or steps is set.", "set a cap"),
    ("injections_refused", "input_guardrails", "plugins.guardrails.injection",
     "A text with the signs of an injected instruction is refused.", "set injection to deny"),
    ("secrets_found", "sensitive_data_scan", "plugins.presidio.secrets",
     "Keys, tokens and passwords are looked for.", "set secrets to auto, required or patterns"),
    ("outputs_scanned", "output_guardrails", "plugins.presidio.scan_output",
     "What a step gives back is scanned as its input is.", "set scan_output to true"),
    ("declared_tools_only", "tool_permission", "tools.strict",
     "A tool that is not declared is refused: all is denied that is not named.",
     "declare the tools under tools.tools, and leave strict at true"),
    ("approval_from", "tool_permission", "tools.approval_from",
     "The lowest risk from which a person approves each tool call.", "set approval_from to this tier or a lower one"),
    ("signed_checkpoints", "audit_ledger", "ledger",
     "The ledger signs a checkpoint of each batch.", "give the ledger a key"),
    ("encrypted_payloads", "audit_ledger", "ledger.encrypt",
     "Payloads are encrypted under a key of each run, or of whom they belong to.",
     "set encrypt, and key_encryption_key"),
)  # fmt: skip
_VALUES = {"approval_from": _TIERS, "encrypted_payloads": ("none", "run", "subject")}

ASSURANCES: Mapping[str, Assurance] = MappingProxyType({
    name: Assurance(name, stage, tuple(setting.split(".")), means, advice, _VALUES.get(name, _BOOLEAN))
    for name, stage, setting, means, advice in _KNOWN
})  # fmt: skip

ENTITY_ACTIONS = ("allow", "surrogate", "encrypt", "hash", "mask", "deny")
"""What may be done with sensitive data, the weakest first: the values of the name ``entities``."""


def assurance_problem(said: Mapping[str, Any]) -> str:
    """Return what is wrong with what a plugin says in ``assures``, or nothing."""
    for name, value in said.items():
        if name == "entities":
            if not isinstance(value, Mapping) or not set(value.values()) <= set(ENTITY_ACTIONS):
                return f"entities maps each kind of data to one of {', '.join(ENTITY_ACTIONS)}"
        elif name == "retention":
            if not all(isinstance(rule, Mapping) and rule.keys() == _OF_RETENTION for rule in value):
                return f"each rule of retention has {', '.join(sorted(_OF_RETENTION))}"
        elif name not in ASSURANCES:
            return unknown("assurance", name, (*ASSURANCES, "entities", "retention"))
        elif ASSURANCES[name].strictness(value) < 0:
            return f"{name} is one of {', '.join(map(str, ASSURANCES[name].values))}, not {value!r}"
    return ""


_OF_RETENTION = frozenset({"keep_days", "everything", "setting"})
