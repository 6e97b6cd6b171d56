"""The limits plugin keeps the contracts of stages 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from meshflow.testing import StageConformance
from meshflow_limits import LimitsPlugin


class TestRates(StageConformance):
    plugin_type = LimitsPlugin
    stage = "rate_limiting"
    settings: ClassVar[Mapping[str, Any]] = {
        "rates": [{"name": "few", "rate": "3/1m"}, {"name": "per-run", "rate": "100/1m", "per": ["run"]}]
    }


class TestBudget(StageConformance):
    plugin_type = LimitsPlugin
    stage = "budget_check"
    settings: ClassVar[Mapping[str, Any]] = {
        "caps": [{"name": "day", "usd": "0.05", "period": "1d"}, {"name": "run", "steps": 3, "period": "run"}]
    }


class TestRatesWithoutLimits(StageConformance):
    plugin_type = LimitsPlugin
    stage = "rate_limiting"


class TestBudgetWithoutCaps(StageConformance):
    plugin_type = LimitsPlugin
    stage = "budget_check"
