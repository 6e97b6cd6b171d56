"""The denial codes of this plugin and what they mean."""

from __future__ import annotations

from typing import Final

DENIED: Final = "policy_evaluation.denied"
NO_PRINCIPAL: Final = "policy_evaluation.no_principal"
UNSUPPORTED: Final = "policy_evaluation.unsupported_input"
CEDAR_ERROR: Final = "policy_evaluation.cedar_error"

CODES: Final[dict[str, str]] = {
    DENIED: "A forbid policy matched, or no permit policy did.",
    NO_PRINCIPAL: "No earlier stage said who asks.",
    UNSUPPORTED: "The arguments hold something that Cedar cannot represent, or are too large.",
    CEDAR_ERROR: "A policy could not be evaluated on this step.",
}
