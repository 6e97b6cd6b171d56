"""Join a new fact with the one that an earlier provider of the same stage left: the stricter wins."""

from __future__ import annotations

from typing import Any

from meshflow.facts import BudgetReservation, ComplianceProfile, Findings, RateLease, RiskTier, TaintLabels


def join_facts(old: Any, new: Any) -> Any:
    """Return the fact that stands after two providers of one stage."""
    if old is None:
        return new
    if isinstance(old, RiskTier):
        return max(old, new)
    if isinstance(old, TaintLabels):
        return old.join(new)
    if isinstance(old, Findings):
        return Findings(old.items + new.items, tuple(sorted(set(old.not_covered) & set(new.not_covered))))
    if isinstance(old, BudgetReservation):
        return BudgetReservation(
            f"{old.hold_id}+{new.hold_id}",
            max(old.micro_usd, new.micro_usd),
            max(old.tokens, new.tokens),
            old.scopes + new.scopes,
        )
    if isinstance(old, RateLease):
        return RateLease({**old.remaining, **new.remaining})
    if isinstance(old, ComplianceProfile):
        return ComplianceProfile(
            tuple(dict.fromkeys(old.names + new.names)),
            f"{old.digest}+{new.digest}",
            tuple(dict.fromkeys(old.controls + new.controls)),
        )
    return new
