"""Stage 11: which tool calls are allowed, refused, or put before a person."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from meshflow.plugin import (
    Confidentiality,
    ConfigError,
    Decision,
    Effect,
    NodeInput,
    Origin,
    RiskTier,
    TaintLabels,
    context_for,
)
from meshflow_flow import CODES, FlowSettings, ToolsPlugin

SCHEMA = {
    "type": "object",
    "properties": {
        "amount": {"type": "number", "maximum": 500},
        "to": {"type": "string", "format": "email"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}}}},
    },
    "required": ["amount"],
    "additionalProperties": False,
}


def plugin(**settings: Any) -> ToolsPlugin:
    return ToolsPlugin(FlowSettings.model_validate(settings))


async def decide(
    tools: ToolsPlugin,
    tool: str | None = "refund",
    arguments: Any = None,
    *,
    kind: str = "tool",
    tier: RiskTier | None = RiskTier.INTERNAL,
    labels: TaintLabels | None = TaintLabels(),  # noqa: B008
) -> Decision:
    step = NodeInput(node_id="n", kind=kind, tool=tool, input=arguments)
    decision = await tools.authorize_tool(context_for(step, risk_classification=tier, taint_propagation=labels))
    assert decision is not None
    assert not decision.code or decision.code in CODES
    return decision


@pytest.mark.parametrize("kind", ["function", "agent", "model", "human", "subgraph"])
async def test_a_step_that_calls_no_tool_is_allowed(kind: str) -> None:
    decision = await decide(plugin(strict=True), None, kind=kind, tier=RiskTier.IRREVERSIBLE)
    assert decision.effect is Effect.ALLOW


async def test_a_function_that_names_a_tool_is_a_tool_call() -> None:
    assert (await decide(plugin(strict=True), "x", kind="function")).code == "tool_permission.unknown_tool"


async def test_an_undeclared_tool_is_refused_once_one_is_declared() -> None:
    declared = {"refund": {"risk": "internal"}}
    assert (await decide(plugin(tools=declared), "other")).code == "tool_permission.unknown_tool"
    assert (await decide(plugin(tools=declared, strict=False), "other")).effect is Effect.ALLOW
    assert (await decide(plugin(tools=declared))).effect is Effect.ALLOW


async def test_without_declarations_only_the_irreversible_waits_for_a_person() -> None:
    for tier in RiskTier:
        decision = await decide(plugin(), tier=tier)
        irreversible = tier is RiskTier.IRREVERSIBLE
        assert decision.effect is (Effect.ESCALATE if irreversible else Effect.ALLOW)
        assert decision.code == ("tool_permission.needs_approval" if irreversible else "")
    assert (await decide(plugin(strict=True))).code == "tool_permission.unknown_tool"


async def test_a_call_without_a_risk_or_labels_counts_as_the_worst() -> None:
    tools = plugin(tools={"refund": {"accepts": {"max_confidentiality": "secret"}}})
    assert (await decide(tools, tier=None)).effect is Effect.ESCALATE
    assert (await decide(tools, labels=None)).effect is Effect.ALLOW
    assert (await decide(plugin(tools={"refund": {}}), labels=None)).code == "tool_permission.confidential_to_sink"


async def test_a_disabled_tool_is_refused() -> None:
    assert (await decide(plugin(tools={"refund": {"enabled": False}}))).code == "tool_permission.disabled"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (None, "must be a mapping"),
        ("x", "must be a mapping"),
        ({}, '"amount" is a required property'),
        ({"amount": "hunter2"}, 'amount: the value is not of type "number"'),
        ({"amount": 501}, "amount: the value is greater than the maximum of 500"),
        ({"amount": 1, "to": "hunter2"}, "to: "),
        ({"amount": 1, "hunter2": 1}, "does not allow"),
        ({"amount": 1, "lines": [{"sku": 5}]}, "lines/0/sku: "),
        ({"amount": 1, "lines": [{"sku": object()}]}, "JSON cannot express"),
        ({"amount": float("nan")}, "amount: "),
        ({"amount": 1, "to": "\ud800hunter2"}, "JSON cannot express"),
        ({"amount": 1, 7: 1}, "JSON cannot express"),
        ({"amount": b"hunter2"}, "JSON cannot express"),
    ],
)
async def test_arguments_that_do_not_match_are_refused_without_being_quoted(arguments: Any, says: str) -> None:
    decision = await decide(plugin(tools={"refund": {"schema": SCHEMA}}), arguments=arguments)
    assert decision.code == "tool_permission.invalid_arguments"
    assert says in decision.reason
    assert "hunter2" not in repr(decision)


async def test_arguments_that_match_pass_whatever_mapping_they_are() -> None:
    tools = plugin(tools={"refund": {"schema": SCHEMA}})
    assert (await decide(tools, arguments={"amount": 5})).effect is Effect.ALLOW
    assert (
        await decide(tools, arguments=MappingProxyType({"amount": 5, "to": "a@example.com"}))
    ).effect is Effect.ALLOW


async def test_names_that_the_schema_does_not_hold_are_not_quoted() -> None:
    schema = {"propertyNames": {"maxLength": 3}, "additionalProperties": {"type": "integer"}}
    tools = plugin(tools={"refund": {"schema": schema}})
    for arguments in ({"hunter2": 1}, {"h2": "hunter2"}):
        decision = await decide(tools, arguments=arguments)
        assert decision.code == "tool_permission.invalid_arguments"
        assert "hunter2" not in repr(decision)
        assert "h2" not in repr(decision)


async def test_a_catastrophic_pattern_runs_in_linear_time() -> None:
    schema = {"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    tools = plugin(tools={"refund": {"schema": schema}})
    begun = time.perf_counter()
    decision = await decide(tools, arguments={"a": "a" * 200_000 + "!"})
    assert decision.code == "tool_permission.invalid_arguments"
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "(?=a)b"},
        {"pattern": "(a)\\1"},
        {"pattern": "(?:a{1000}){1000}"},
        {"type": "strnig"},
        {"$ref": "http://198.51.100.1/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/none"},
        {"$schema": "http://198.51.100.1/draft"},
    ],
)
async def test_a_schema_that_cannot_be_trusted_is_refused(schema: dict[str, Any]) -> None:
    tools = plugin(tools={"refund": {"schema": schema}})
    assert (await decide(tools, arguments={"a": 1})).code == "tool_permission.invalid_schema"
    with pytest.raises(ConfigError, match=r"tools\.tools\.refund\.schema"):
        await tools.startup()


def nested(depth: int) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    inner = outer
    for _ in range(depth):
        inner["n"] = {}
        inner = inner["n"]
    inner["n"] = "leaf"
    return outer


def loop() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["n"] = found
    return found


def doubled() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(40):
        found = {"n": found, "m": found}
    return found


@pytest.mark.parametrize("make", [lambda: nested(100_000), loop, doubled], ids=["deep", "loop", "doubled"])
async def test_arguments_that_would_overflow_a_validator_are_refused(make: Callable[[], dict[str, Any]]) -> None:
    schema = {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#"}, {"type": "string"}]}}}
    decision = await decide(plugin(tools={"refund": {"schema": schema}}), arguments=make())
    assert decision.code == "tool_permission.invalid_arguments"
    assert "nest deeper" in decision.reason


async def test_a_recursive_schema_checks_what_is_shallow() -> None:
    schema = {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#"}, {"type": "string"}]}}}
    tools = plugin(tools={"refund": {"schema": schema}})
    assert (await decide(tools, arguments=nested(20))).effect is Effect.ALLOW


WEB = TaintLabels(Origin.EXTERNAL, Confidentiality.PUBLIC, ("http",))


async def test_untrusted_input_to_an_irreversible_tool_escalates_or_denies_by_setting() -> None:
    declared = {"refund": {"risk": "irreversible"}}
    decision = await decide(plugin(tools=declared), tier=RiskTier.IRREVERSIBLE, labels=WEB)
    assert (decision.effect, decision.code) == (Effect.ESCALATE, "tool_permission.untrusted_input")
    assert decision.evidence["sources"] == ["http"]
    strict = plugin(tools=declared, untrusted_to_irreversible="deny")
    assert (await decide(strict, tier=RiskTier.IRREVERSIBLE, labels=WEB)).effect is Effect.DENY


async def test_a_tool_that_accepts_the_origin_still_needs_its_approval() -> None:
    tools = plugin(tools={"refund": {"accepts": {"max_origin": "external"}}})
    decision = await decide(tools, tier=RiskTier.IRREVERSIBLE, labels=WEB)
    assert decision.code == "tool_permission.needs_approval"
    free = plugin(tools={"refund": {"accepts": {"max_origin": "external"}}}, approval_from="never")
    assert (await decide(free, tier=RiskTier.IRREVERSIBLE, labels=WEB)).effect is Effect.ALLOW


async def test_a_declared_clearance_holds_at_every_tier() -> None:
    tools = plugin(tools={"refund": {"accepts": {"max_origin": "trusted"}}})
    decision = await decide(tools, tier=RiskTier.READ_ONLY, labels=TaintLabels(Origin.USER))
    assert decision.code == "tool_permission.untrusted_input"


@pytest.mark.parametrize(
    ("declared", "level", "code"),
    [
        ({"sink": "outside"}, Confidentiality.TENANT, ""),
        ({"sink": "outside"}, Confidentiality.PERSONAL, "tool_permission.confidential_to_sink"),
        ({"risk": "internal"}, Confidentiality.SECRET, ""),
        ({"risk": "internal", "sink": "outside"}, Confidentiality.SECRET, "tool_permission.confidential_to_sink"),
        ({"risk": "external_io"}, Confidentiality.SECRET, "tool_permission.confidential_to_sink"),
        ({"accepts": {"max_confidentiality": "personal"}}, Confidentiality.PERSONAL, ""),
        (
            {"sink": "internal", "accepts": {"max_confidentiality": "public"}},
            Confidentiality.INTERNAL,
            "tool_permission.above_clearance",
        ),
    ],
)
async def test_confidential_data_does_not_pass_a_clearance(
    declared: dict[str, Any], level: Confidentiality, code: str
) -> None:
    tools = plugin(tools={"refund": declared})
    assert (await decide(tools, labels=TaintLabels(Origin.TRUSTED, level))).code == code


async def test_an_http_step_is_a_sink_outside_even_without_a_tool() -> None:
    secret = TaintLabels(Origin.TRUSTED, Confidentiality.SECRET)
    decision = await decide(plugin(), None, kind="http", labels=secret)
    assert decision.code == "tool_permission.confidential_to_sink"
    allowed = plugin(kinds={"http": {"accepts": {"max_confidentiality": "secret"}}})
    assert (await decide(allowed, None, kind="http", labels=secret)).effect is Effect.ALLOW


async def test_what_is_certain_to_be_wrong_is_denied_before_a_person_is_asked() -> None:
    tools = plugin(tools={"refund": {"schema": SCHEMA}})
    worst = TaintLabels(Origin.EXTERNAL, Confidentiality.SECRET)
    decision = await decide(tools, arguments={}, tier=RiskTier.IRREVERSIBLE, labels=worst)
    assert decision.code == "tool_permission.invalid_arguments"
    decision = await decide(tools, arguments={"amount": 1}, tier=RiskTier.IRREVERSIBLE, labels=worst)
    assert decision.effect is Effect.DENY


def test_ten_thousand_tools_load_and_decide_quickly() -> None:
    declared = {f"tool_{index}": {"schema": SCHEMA, "risk": "internal"} for index in range(10_000)}
    settings = FlowSettings.model_validate({"tools": declared})

    async def all_of_them() -> float:
        begun = time.perf_counter()
        tools = ToolsPlugin(settings)
        made = time.perf_counter() - begun
        await tools.startup()
        for index in range(0, 10_000, 10):
            assert (await decide(tools, f"tool_{index}", {"amount": 1})).effect is Effect.ALLOW
        return made

    begun = time.perf_counter()
    assert asyncio.run(all_of_them()) < 0.1
    assert time.perf_counter() - begun < 15


def test_importing_the_plugin_does_not_import_its_validator() -> None:
    code = "import sys, meshflow_flow; sys.exit('jsonschema_rs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_code_names_its_stage_and_is_explained() -> None:
    stages = {"risk_classification", "taint_propagation", "tool_permission"}
    assert all(code.split(".")[0] in stages and text.endswith(".") for code, text in CODES.items())
