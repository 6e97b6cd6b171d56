"""The published schema takes what the reader takes, and the drawing shows it."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from meshflow import ConfigError, WorkflowDefinition
from meshflow.workflow.schema import workflow_schema
from meshflow.workflow.spec import NODE_TYPES

from .test_workflow_read import GOOD
from .test_workflow_roundtrip import workflows

VALIDATOR = jsonschema_rs.validator_for(workflow_schema())


def test_it_is_a_schema_and_knows_every_kind_and_key() -> None:
    schema = workflow_schema()
    jsonschema_rs.meta.validate(schema)
    for made in NODE_TYPES.values():
        properties = schema["$defs"][made.__name__]["properties"]
        assert {info.alias or name for name, info in made.model_fields.items()} <= set(properties)
        assert all(field.get("description") or name == "kind" for name, field in properties.items())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_what_the_reader_takes_the_schema_takes(mapping: dict[str, Any]) -> None:
    try:
        wf = WorkflowDefinition.from_mapping(mapping)
    except ConfigError:
        return
    for one in (mapping, wf.to_mapping()):
        errors = [error.message for error in VALIDATOR.iter_errors(one)]
        assert not errors


@pytest.mark.parametrize(
    "wrong",
    [
        "{}", "{nodes: {}}", "{nodes: {a: {}}}", "{nodes: {a: {kind: nope}}}", "{nodes: {a b: {kind: transform}}}",
        "{nodes: {a: {kind: tool}}}", "{nodes: {a: {kind: tool, tool: t, tol: 1}}}",
        "{nodes: {a: {kind: transform}}, edges: [a]}", "{nodes: {a: {kind: transform}}, edges: [{to: a}]}",
        "{nodes: {a: {kind: transform, risk: low}}}", "{nodes: {a: {kind: map, over: [], do: {kind: x}}}}",
        "{nodes: {a: {kind: subgraph, workflow: {nodes: {}}}}}",
    ],
)  # fmt: skip
def test_what_the_schema_refuses_the_reader_refuses(wrong: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(wrong))
    with pytest.raises(ConfigError):
        WorkflowDefinition.from_yaml(f"{wrong}\n")


def test_a_drawing_has_every_node_and_edge() -> None:
    drawing = WorkflowDefinition.from_yaml(GOOD).draw_mermaid()
    assert drawing.startswith("flowchart TD\n")
    assert [name for name in ("fetch", "each", "judge", "publish") if name not in drawing] == []
    assert len(re.findall(r"-->", drawing)) == 3
    assert "-.->" in drawing
    assert "3 times at most" in drawing


def test_no_text_of_a_file_gets_out_of_its_label() -> None:
    evil = '"] --> x["<script>alert(1)</script>|\nclick n0 "javascript:alert(1)'
    wf = WorkflowDefinition.from_mapping(
        {
            "nodes": {"a": {"kind": "transform", "description": evil}, "b": {"kind": "transform"}},
            "edges": [{"from": "a", "to": "b", "when": "input == '\"]|x'"}],
        }
    )
    drawing = wf.draw_mermaid()
    assert "<script" not in drawing
    assert "\nclick" not in drawing
    assert len(drawing.splitlines()) == 4
