"""The codes that a mesh's switch answers with."""

from __future__ import annotations

CODES: dict[str, str] = {
    "compliance_profile.killed": "The run, agent, tool or tenant of the step was killed.",
    "compliance_profile.paused": "The run, agent, tool or tenant of the step is paused.",
    "compliance_profile.quarantined": "The agent was quarantined after denials in a row.",
}
