"""The JSON Schema of workflow files, so that editors complete and check them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from meshflow.workflow.spec import NODE_TYPES, Document, Edge
from meshflow.workflow.spec.base import NODE_NAME
from meshflow.workflow.spec.nodes import AnyNode

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_CHAIN = {
    "type": "string",
    "pattern": rf"^\s*{_WORD}(\s*->\s*{_WORD})+\s*$",
    "description": "A chain: a -> b -> c.",
}


def workflow_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a workflow file.

    It knows keys, kinds and bounds. What it cannot say, such as that an edge leads to a node that exists, is checked
    when the file is read.
    """
    whole = Document.model_json_schema(by_alias=True)
    definitions = whole.pop("$defs", {})
    for model in (TypeAdapter(AnyNode), TypeAdapter(Edge)):
        schema = model.json_schema(by_alias=True, ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        if model.core_schema.get("type") != "union":
            definitions.setdefault("Edge", schema)
    names = {kind: made.__name__ for kind, made in NODE_TYPES.items()}
    definitions["Node"] = {
        "description": "A node, by its kind.",
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": list(NODE_TYPES)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for kind, name in names.items()
        ],
    }
    definitions["MapNode"]["properties"]["do"] |= {"$ref": "#/$defs/Node"}
    definitions["SubgraphNode"]["properties"]["workflow"] = {"$ref": "#", "description": "The workflow, in place."}
    for name in ("source", "target"):
        definitions["Edge"]["properties"].pop(name, None)
    for definition in definitions.values():
        _accept_one_name(definition)
    properties = whole["properties"]
    properties["nodes"] = {
        "description": properties["nodes"]["description"],
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NODE_NAME}$"},
        "additionalProperties": {"$ref": "#/$defs/Node"},
    }
    properties["edges"] = {
        "description": properties["edges"]["description"],
        "type": ["array", "null"],
        "items": {"anyOf": [_CHAIN, {"$ref": "#/$defs/Edge"}]},
    }
    _accept_one_name(whole)
    return {"$schema": _DRAFT, **whole, "title": "workflow file", "$defs": dict(sorted(definitions.items()))}


def _accept_one_name(schema: dict[str, Any]) -> None:
    """Let one name stand for a list of one, as the reader does."""
    for field in schema.get("properties", {}).values():
        for part in (field, *field.get("anyOf", ())):
            if part.get("type") == "array" and part.get("items", {}).get("type") == "string":
                one = dict(part["items"])
                array = {key: part.pop(key) for key in ("type", "items") if key in part}
                part["anyOf"] = [one, array | {"minItems": 1, "uniqueItems": True}]
