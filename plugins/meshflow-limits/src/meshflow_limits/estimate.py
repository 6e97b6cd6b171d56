"""What a step may cost, as far as anybody says: the amount to reserve."""

from __future__ import annotations

from collections.abc import Sequence

from meshflow.plugin import Decision, NodeInput, to_micro_usd
from meshflow_limits import codes
from meshflow_limits.settings import LimitsSettings
from meshflow_limits.store import Amount, Cap

# Their cost is 0 unless somebody says more; the steps inside a subgraph reserve for themselves.
_FREE_KINDS = frozenset({"function", "tool", "human", "subgraph"})
_LARGEST = 2**53 - 1


class Estimator:
    """Reads a step's estimate, or falls back on the settings."""

    def __init__(self, settings: LimitsSettings) -> None:
        usd = settings.default_estimate_usd
        self._micro_usd = None if usd is None else to_micro_usd(usd)
        self._tokens = settings.default_estimate_tokens
        self._required = settings.require_estimate

    def amount(self, step: NodeInput, caps: Sequence[Cap]) -> Amount | Decision:
        """Return what to reserve for the step under the caps that apply to it, or the denial that it needs."""
        micro_usd, tokens = self._micro_usd, self._tokens
        if step.estimate_usd is not None:
            try:
                micro_usd = to_micro_usd(step.estimate_usd)
            except (ValueError, ArithmeticError):
                return _invalid("estimate_usd", step.estimate_usd, "a finite number of USD, 0 or more")
        given = step.estimate_tokens
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= _LARGEST:
            return _invalid("estimate_tokens", given, "a whole number of tokens, 0 or more")
        if given:
            tokens = given
        if self._required and step.kind not in _FREE_KINDS:
            for cap in caps:
                if micro_usd is None and cap.ceiling.micro_usd is not None:
                    return _missing(cap, step, "estimate_usd")
                if tokens is None and cap.ceiling.tokens is not None:
                    return _missing(cap, step, "estimate_tokens")
        return Amount(micro_usd or 0, tokens or 0, 1)


def _invalid(field: str, value: object, wanted: str) -> Decision:
    # The value stays out of the reason: it may be any text, of any length.
    return Decision.deny(
        codes.INVALID_ESTIMATE,
        f"{field} must be {wanted}; the {type(value).__name__} that the step gives is not",
        evidence={"field": field},
    )


def _missing(cap: Cap, step: NodeInput, field: str) -> Decision:
    return Decision.deny(
        codes.NO_ESTIMATE,
        f"cap {cap.name!r} applies to this {step.kind} step and nobody says what it may use; pass {field}=, "
        f"or set limits.default_{field}, or limits.require_estimate: false",
        evidence={"cap": cap.name, "field": field, "kind": step.kind},
    )
