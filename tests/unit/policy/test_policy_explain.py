"""Why a bundle decided: the rules that held, what they read, and where others stopped."""

from __future__ import annotations

from typing import Any

import pytest

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, Policy, PolicyAnswer, PolicyFailure, shipped_bundle
from meshflow.policy.engine import COMPLIANCE, POLICY, TOOLS
from meshflow.policy.shipped import shipped_names
from meshflow.policy.tools.explain import Told, Trace, explain_decision
from meshflow.profiles.packs import load_pack

HEAD = "package meshflow.policy\n\n"
STEP: dict[str, Any] = {
    "principal": {"subject": "ana", "verified": False, "roles": ["support"]},
    "tenant": "acme",
    "tool": "shell",
    "arguments": {"tenant": "rival"},
    "estimate": {"micro_usd": 1, "tokens": 0},
}


def starter(**meshflow: Any) -> Bundle:
    return Bundle.load(shipped_bundle("authz")).with_data({"meshflow": meshflow})


def told(rules: str, document: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Told:
    return explain_decision(Policy.from_rego(HEAD + rules, data).bundle, POLICY, document or {})


def deciding(found: Told) -> list[Trace]:
    return [trace for trace in found.traces if trace.decides]


def test_the_rules_that_gave_the_reasons_decide_and_their_conditions_are_told() -> None:
    found = explain_decision(starter(blocked_tools=["shell", "admin_*"]), POLICY, STEP)
    assert isinstance(found.answer, PolicyAnswer)
    assert {trace.values[0]["code"] for trace in deciding(found)} == {"tool_blocked", "other_tenant"}
    blocked = next(trace for trace in deciding(found) if trace.values[0]["code"] == "tool_blocked")
    assert blocked.rule == "data.meshflow.policy.denials"
    assert [condition.held for condition in blocked.conditions] == [True, True, True]
    assert blocked.conditions[0].values == {"data.meshflow.lib.is_tool_call": True}
    assert blocked.conditions[1].values["data.meshflow.blocked_tools"] == ["shell", "admin_*"]
    assert blocked.conditions[2].values == {"input.tool": "shell"}


def test_a_rule_that_did_not_hold_names_the_condition_where_it_stopped() -> None:
    found = explain_decision(starter(roles={"support": {"tools": ["lookup_*"]}}), POLICY, STEP)
    granted = next(trace for trace in found.traces if trace.rule.endswith(".granted"))
    assert not granted.held
    assert granted.stopped_at is not None
    assert granted.stopped_at.text == "lib.matches(pattern, input.tool)"
    assert granted.conditions[-2].values["pattern"] == "lookup_*"


def test_all_values_of_a_variable_are_told() -> None:
    found = told(
        'decision := {"allow": false, "reasons": r}\nr contains {"code": "x"} if {\n\tsome n in input.list\n\tn > 1\n}',
        {"list": [3, 1, 2]},
    )
    (trace,) = deciding(found)
    assert sorted(trace.conditions[0].values["n"]) == [1, 2, 3]


@pytest.mark.parametrize(
    "rule",
    [
        'r contains {"code": "x", "message": "y", "rule": "z"} if input.tool == "shell"',
        'r contains {"code": "x",\n\t"rule": "y"} if {\n\tinput.tool == "shell"; # why\n\t# so\n\t"a" == "a"\n}',
        "r contains {\"code\": \"x\"} if { startswith(input.tool, `sh`) }",
        'r contains {"code": "x"} if { every c in [1] { c == 1 }; x := {y | some y in [1]}; count(x) == 1 }',
        'r contains {"code": "x"} if { input.tool == "shell" with input.other as "é" }',
        'r contains {"code": c} if { [a, [b, _]] := ["x", ["y", 1]]; c := concat("", [a, ""]); b == "y" }',
        'r contains {"code": "x"}',
    ],
)  # fmt: skip
def test_rules_are_cut_whatever_their_form(rule: str) -> None:
    found = told(f'decision := {{"allow": false, "reasons": r}}\n{rule}', {"tool": "shell"})
    (trace,) = deciding(found)
    assert trace.held
    assert trace.values[0]["code"] == "x"
    assert all(condition.held for condition in trace.conditions)


def test_conditions_that_begin_with_an_object_are_told() -> None:
    rules = (
        'decision := {"allow": false, "reasons": r}\n'
        'r contains {"code": "odd"} if { {"a": 1, "b": 2} == input.both }\nr contains {"code": "even"} if input.tool'
    )
    found = told(rules, {"tool": "x", "both": {"a": 1, "b": 2}})
    assert {trace.values[0]["code"] for trace in deciding(found)} == {"even", "odd"}


def test_alternatives_and_defaults_say_their_own_values() -> None:
    found = told(
        'decision := {"allow": t == "low"}\nt := "high" if input.a else := "low" if input.b else := "none"',
        {"b": 1},
    )
    assert [(trace.held, trace.values) for trace in found.traces] == [(False, ()), (True, ("low",)), (True, ("none",))]


def test_an_error_is_told_as_a_problem() -> None:
    found = told('decision := {"allow": a}\na if to_number(input.x) > 1', {"x": "abc"})
    assert isinstance(found.answer, PolicyFailure)
    assert found.traces[0].problem


def test_a_document_that_has_no_json_form_is_a_failure() -> None:
    assert isinstance(told('decision := {"allow": true}', {"x": float("nan")}).answer, PolicyFailure)


def test_an_entry_point_that_the_bundle_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.meshflow\.tools\.decision"):
        explain_decision(Policy.from_rego(HEAD + 'decision := {"allow": true}').bundle, TOOLS, {})


@pytest.mark.parametrize("name", shipped_names("profiles"))
def test_every_shipped_profile_can_be_explained(name: str) -> None:
    bundle = load_pack(shipped_bundle(f"profiles/{name}"), {}).bundle
    assert bundle is not None
    found = explain_decision(bundle, COMPLIANCE, STEP)
    assert len(found.traces) > 5
    assert any(trace.held for trace in found.traces)
