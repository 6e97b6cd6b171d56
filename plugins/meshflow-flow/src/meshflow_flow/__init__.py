"""Follow what data is and where it goes: risk tiers, taint labels, and permission to call tools."""

from meshflow_flow.codes import CODES
from meshflow_flow.risk import RiskPlugin
from meshflow_flow.settings import FlowSettings, ToolDeclaration
from meshflow_flow.taint import TaintPlugin
from meshflow_flow.tools import ToolsPlugin

__all__ = ["CODES", "FlowSettings", "RiskPlugin", "TaintPlugin", "ToolDeclaration", "ToolsPlugin"]
