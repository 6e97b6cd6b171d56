"""The denial codes of this plugin and what they mean: the same causes at each of its four stages."""

from __future__ import annotations

from typing import Final

from meshflow.policy.engine import CAUSES, COMPLIANCE, OUTPUT, POLICY, TOOLS, EntryPoint

PREFIX: Final[dict[EntryPoint, str]] = {
    POLICY: "policy_evaluation.",
    COMPLIANCE: "compliance_profile.policy_",
    TOOLS: "tool_permission.policy_",
    OUTPUT: "output_guardrails.policy_",
}
"""What the codes start with. Beside another plugin of the same stage, they say that it was the policy."""

_MEANINGS: Final[dict[str, str]] = {
    "denied": "A rule of the policy refuses the step; the evidence names rules and codes.",
    "escalated": "The policy allows the step if a person agrees.",
    **CAUSES,
}

CODES: Final[dict[str, str]] = {
    prefix + cause: meaning for prefix in PREFIX.values() for cause, meaning in _MEANINGS.items()
}
