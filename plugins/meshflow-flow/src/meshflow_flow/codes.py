"""The codes that the risk, taint and tools plugins answer with."""

from __future__ import annotations

CODES: dict[str, str] = {
    "risk_classification.unknown_tier": "The step names a risk tier that does not exist.",
    "taint_propagation.unknown_source": "The step reads a step of the run whose labels are not known.",
    "taint_propagation.invalid_labels": "The labels that the step was given are not taint labels.",
    "tool_permission.unknown_tool": "The tool is not declared, and undeclared tools are refused.",
    "tool_permission.disabled": "The tool is declared and switched off.",
    "tool_permission.invalid_schema": "The tool's argument schema cannot be compiled, so arguments cannot be checked.",
    "tool_permission.invalid_arguments": "The arguments do not match the tool's schema, or cannot be checked.",
    "tool_permission.confidential_to_sink": "Data above the clearance of a sink outside would reach it.",
    "tool_permission.above_clearance": "Data above the clearance of a tool inside would reach it.",
    "tool_permission.untrusted_input": "Data from an origin that the tool does not accept reaches its arguments.",
    "tool_permission.needs_approval": "The tool's risk is one that a person must approve.",
}
