"""How long steps take: percentiles by node, agent, tenant and stage, and objectives that are kept or breached."""

from meshflow_sla.codes import CODES
from meshflow_sla.settings import Match, Objective, SlaSettings
from meshflow_sla.sketches import Series, Table
from meshflow_sla.sla import SlaPlugin

__all__ = ["CODES", "Match", "Objective", "Series", "SlaPlugin", "SlaSettings", "Table"]
