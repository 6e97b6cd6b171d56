"""Turns settings into rules and caps that need no more parsing."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

from meshflow_limits.scope import Matcher
from meshflow_limits.settings import CapSettings, RateSettings
from meshflow_limits.store import Cap, Ceiling, RateRule
from meshflow_limits.units import parse_duration_s, parse_rate


def rule_of(settings: RateSettings) -> RateRule:
    """Return the rule that the settings describe."""
    rate = parse_rate(settings.rate)
    return RateRule(
        name=settings.name,
        text=settings.rate,
        per=tuple(dict.fromkeys(settings.per)),
        matcher=Matcher(settings.match, settings.per),
        count=rate.count,
        period_ns=rate.period_ns,
        burst=rate.count if settings.burst is None else settings.burst,
    )


def cap_of(settings: CapSettings) -> Cap:
    """Return the cap that the settings describe; ``period: run`` is one account for each run."""
    dimensions = [dimension for dimension in dict.fromkeys(settings.per) if dimension != "global"]
    if settings.period == "run" and "run" not in dimensions:
        dimensions.append("run")
    timed = settings.period is not None and settings.period != "run"
    return Cap(
        name=settings.name,
        per=tuple(dimensions),
        matcher=Matcher(settings.match, settings.per),
        ceiling=Ceiling(_floor_micro_usd(settings.usd), settings.tokens, settings.steps),
        period=settings.period,
        period_us=parse_duration_s(settings.period) * 1_000_000 if timed and settings.period else None,
        by_run="run" in dimensions,
    )


def _floor_micro_usd(usd: str | None) -> int | None:
    # Costs are rounded up, so a cap is rounded down: neither lets more through than was written.
    if usd is None:
        return None
    return int((Decimal(usd) * 1_000_000).to_integral_value(rounding=ROUND_FLOOR))
