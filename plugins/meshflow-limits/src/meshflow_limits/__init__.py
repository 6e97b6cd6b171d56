"""Rate limits and budgets: the default provider of stages 3 and 4."""

from meshflow_limits.codes import CODES
from meshflow_limits.plugin import LimitsPlugin
from meshflow_limits.settings import CapSettings, LimitsSettings, Match, RateSettings
from meshflow_limits.store import BudgetStore, RateStore

__all__ = [
    "CODES",
    "BudgetStore",
    "CapSettings",
    "LimitsPlugin",
    "LimitsSettings",
    "Match",
    "RateSettings",
    "RateStore",
]
