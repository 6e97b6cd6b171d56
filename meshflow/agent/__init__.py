"""Agents on pydantic-ai whose every model call and tool call is a governed, recorded step."""

from __future__ import annotations

from meshflow.agent.agent import Agent
from meshflow.agent.pricing import TokenPrice
from meshflow.agent.result import AgentResult, AgentStep
from meshflow.agent.traits import tool

__all__ = ["Agent", "AgentResult", "AgentStep", "TokenPrice", "tool"]
