"""The denial codes of this plugin and what they mean."""

from __future__ import annotations

from typing import Final

RATE_EXCEEDED: Final = "rate_limiting.exceeded"
RATE_UNSCOPED: Final = "rate_limiting.unscoped"
RATE_FULL: Final = "rate_limiting.too_many_keys"
EXHAUSTED: Final = "budget_check.exhausted"
INVALID_ESTIMATE: Final = "budget_check.invalid_estimate"
NO_ESTIMATE: Final = "budget_check.no_estimate"
BUDGET_UNSCOPED: Final = "budget_check.unscoped"
BUDGET_FULL: Final = "budget_check.too_many_keys"

CODES: Final[dict[str, str]] = {
    RATE_EXCEEDED: "A rate limit has no room for the step yet; the evidence says when it will.",
    RATE_UNSCOPED: "A rate limit is kept per tenant, agent or principal, and no earlier stage said which.",
    RATE_FULL: "A rate limit already follows as many keys as it may, all of them in use.",
    EXHAUSTED: "A cap has less left than the step may cost.",
    INVALID_ESTIMATE: "The step's estimate is not a finite, non-negative amount.",
    NO_ESTIMATE: "A cap applies to the step and nobody says what the step may cost.",
    BUDGET_UNSCOPED: "A cap is kept per tenant, agent or principal, and no earlier stage said which.",
    BUDGET_FULL: "The budget already follows as many accounts as it may.",
}
