"""The words in which limits refuse a step."""

from __future__ import annotations

from meshflow.plugin import Decision
from meshflow_limits import codes
from meshflow_limits.scope import UnscopedError
from meshflow_limits.store import RateAnswer, RateRule, Shortage


def unscoped(code: str, error: UnscopedError) -> Decision:
    """Return the denial for a limit by a dimension that nobody named."""
    return Decision.deny(
        code,
        f"{error}; enable the stage that does, or take {error.dimension} out of its per",
        evidence={"limit": error.limit, "dimension": error.dimension},
    )


def too_fast(rule: RateRule, answer: RateAnswer) -> Decision:
    """Return the denial by a rate."""
    if answer.full:
        return Decision.deny(
            codes.RATE_FULL,
            f"rate {rule.name!r} follows as many keys as limits.max_keys allows; raise it, or keep the rate by less",
            evidence={"rule": rule.name},
        )
    retry_after_ms = -(-answer.retry_after_ns // 1_000_000)
    return Decision.deny(
        codes.RATE_EXCEEDED,
        f"rate {rule.name!r} allows {rule.text} by {_by(rule.per)}, bursts of {rule.burst}; "
        f"try again in {retry_after_ms} ms",
        evidence={"rule": rule.name, "rate": rule.text, "burst": rule.burst, "retry_after_ms": retry_after_ms},
    )


def short(shortage: Shortage) -> Decision:
    """Return the denial by a cap."""
    cap = shortage.cap
    if shortage.full:
        return Decision.deny(
            codes.BUDGET_FULL,
            "the budget follows as many accounts as limits.max_keys allows; raise it, or keep caps by less",
            evidence={"cap": cap.name},
        )
    return Decision.deny(
        codes.EXHAUSTED,
        f"cap {cap.name!r} by {_by(cap.per)}: {shortage.asked} {shortage.unit} asked, {shortage.spent} spent and "
        f"{shortage.held} held of {shortage.most}; raise the cap or wait for the next period",
        evidence={
            "cap": cap.name,
            "unit": shortage.unit,
            "asked": shortage.asked,
            "spent": shortage.spent,
            "held": shortage.held,
            "most": shortage.most,
        },
    )


def _by(per: tuple[str, ...]) -> str:
    return " and ".join(per) if per else "all steps together"
