"""The decision document and the answer as JSON Schema (2020-12), by entry point; as ``document`` makes it."""

from __future__ import annotations

from typing import Any

from meshflow.policy.document import DOCUMENT_VERSION
from meshflow.policy.engine import ENTRY_POINTS, OUTPUT, TOOLS, EntryPoint

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_RISKS = ["read_only", "internal", "external_io", "irreversible"]


def _object(about: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": about,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if isinstance(kind, str):
        values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        return {**schema, "type": [kind, "null"], **values}
    return schema


_ALWAYS: dict[str, Any] = {
    "version": {"const": DOCUMENT_VERSION, "description": "Of this document."},
    "stage": {"enum": [entry.stage for entry in ENTRY_POINTS], "description": "The stage that asks."},
    "time_us": {**_WHOLE, "description": "Microseconds since the Unix epoch, UTC; the only clock a policy has."},
    "principal": _or_null(
        _object(
            "Who asks.",
            subject=_TEXT,
            agent_id=_TEXT,
            issuer=_TEXT,
            verified={"type": "boolean"},
            roles={"type": "array", "items": _TEXT},
            tenant=_or_null(_TEXT),
        )
    ),
    "tenant": {**_or_null(_TEXT), "description": "The tenant's id."},
    "run": _object("The run that the step belongs to.", run_id=_TEXT),
    "step": _object("The step, and which attempt at it.", step_id=_TEXT, attempt=_WHOLE),
    "node": _object("The node of the workflow or graph.", id=_TEXT, kind=_TEXT),
    "action": {**_or_null(_TEXT), "description": "The step's action."},
    "tool": {**_or_null(_TEXT), "description": "The tool's name."},
    "arguments": {"description": "A tool call's arguments, as the gates so far have left them; null for other steps."},
    "input": {"description": "Any other step's input; null for a tool call."},
    "estimate": _object(
        "What the caller says that the step may take.",
        micro_usd={**_or_null(_WHOLE), "description": "Null where the step names no cost."},
        tokens=_or_null(_WHOLE),
    ),
    "declared": _object(
        "What the caller says of the step.",
        risk=_or_null({**_TEXT, "enum": _RISKS}),
        idempotent=_or_null({"type": "boolean"}),
    ),
    "metadata": {"type": "object", "description": "The step's metadata."},
    "approval": _or_null(
        _object(
            "A person's answer, on a step that waited for one.",
            id=_TEXT,
            approver=_TEXT,
            approved={"type": "boolean"},
        )
    ),
}
_FROM_TOOLS: dict[str, Any] = {
    "risk": {**_or_null({**_TEXT, "enum": _RISKS}), "description": "The tier that stage 9 found."},
    "labels": _or_null(
        _object(
            "The labels that stage 10 found.",
            origin={**_TEXT, "enum": ["trusted", "user", "tool", "external"]},
            confidentiality={**_TEXT, "enum": ["public", "internal", "tenant", "personal", "secret"]},
        )
    ),
    "findings": {
        "type": "array",
        "description": "Sensitive data that stage 8 found; never the text itself.",
        "items": _object("One finding.", entity=_TEXT, path=_TEXT, action=_TEXT),
    },
    "obligations": {
        "type": "array",
        "description": "Duties laid on the step so far.",
        "items": _object("One duty.", name=_TEXT, parameters={"type": "object"}),
    },
}
_AT_OUTPUT: dict[str, Any] = {
    "output": {"description": "The step's output, or of a stream the text not yet released."},
    "stream": _or_null(
        _object("Where a stream stands.", released_chars=_WHOLE, final={"type": "boolean"}),
    ),
}


def input_schema(entry: EntryPoint) -> dict[str, Any]:
    """Return the schema of ``input`` at an entry point."""
    properties = dict(_ALWAYS)
    if entry in (TOOLS, OUTPUT):
        properties |= _FROM_TOOLS
    if entry is OUTPUT:
        properties |= _AT_OUTPUT
    properties["stage"] = {"const": entry.stage, "description": "The stage that asks."}
    return {
        "$schema": DIALECT,
        "$id": f"urn:meshflow:policy-input:{DOCUMENT_VERSION}:{entry.stage}",
        "title": f"input of {entry.rule}",
        **_object(f"What a policy sees of a step at the stage {entry.stage}.", **properties),
    }


def answer_schema() -> dict[str, Any]:
    """Return the schema of what a decision rule answers, at every entry point."""
    code = {**_TEXT, "pattern": "^[a-z][a-z0-9_.]*$", "maxLength": 500}
    reason = {
        "type": "object",
        "properties": {"code": code, "message": _TEXT, "rule": _TEXT, "control": _TEXT},
        "required": ["code"],
        "additionalProperties": False,
    }
    duty = {
        "type": "object",
        "properties": {"name": {**_TEXT, "pattern": "^[a-z][a-z0-9_]*$"}, "parameters": {"type": "object"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "$id": f"urn:meshflow:policy-answer:{DOCUMENT_VERSION}",
        "title": "answer of a decision rule",
        "type": "object",
        "properties": {
            "allow": {"type": "boolean", "description": "False denies, whatever the rest says."},
            "reasons": {"type": "array", "items": reason, "maxItems": 64, "description": "Why; a set will do."},
            "obligations": {"type": "array", "items": duty, "maxItems": 64, "description": "Duties; a set will do."},
            "escalate": {"type": "boolean", "default": False, "description": "True, with allow, asks a person."},
        },
        "required": ["allow"],
        "additionalProperties": False,
    }
