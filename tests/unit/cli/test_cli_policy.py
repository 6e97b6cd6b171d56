"""``meshflow policy``: what it prints, as text and JSON, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema_rs
import pytest

Shell = Callable[..., Any]
POLICY = """package meshflow.policy

decision := {"allow": count(denials) == 0, "reasons": denials, "escalate": careful}

default careful := false

careful if input.action == "ask"

denials contains {"code": "blocked", "message": sprintf("%s is blocked", [input.tool])} if input.tool in data.blocked
"""
TESTS = """package meshflow.policy_test

import data.meshflow.policy

test_blocked if not policy.decision.allow with input as {"tool": "shell"} with data.blocked as ["shell"]

test_fails if policy.decision.allow with input as {"tool": "shell"} with data.blocked as ["shell"]
"""


@pytest.fixture
def bundle(shell: Any) -> Path:
    shell.write("mine/p.rego", POLICY)
    shell.write("mine/p_test.rego", TESTS)
    shell.write("mine/data.yaml", "blocked: [shell]\n")
    return Path("mine")


def test_check_finds_nothing_in_the_starter_bundle(shell: Shell) -> None:
    done = shell("policy", "check", "--strict")
    assert (done.code, done.out) == (0, "authz: 6 files, 0 errors, 0 warnings for regorus\n")


def test_check_prints_places_and_fails(shell: Any, bundle: Path) -> None:
    shell.write("mine/more.rego", 'package meshflow.policy\n\nlost := io.jwt.decode("x")\n\nrisky if input.risk == 1\n')
    done = shell("policy", "check", "mine")
    assert done.code == 1
    assert "more.rego:3: error: io.jwt.decode is neither a function of the bundle nor known to the engine" in done.out
    assert "more.rego:5: warning: no entry point reaches the rule risky" in done.out
    document = shell("policy", "check", "mine", "--engine", "opa", "--json").document
    assert (document["errors"], document["warnings"], document["engine"]) == (0, 2, "opa")
    assert {one["kind"] for one in document["findings"]} == {"unused"}
    assert shell("policy", "check", "mine", "--engine", "opa").code == 0
    assert shell("policy", "check", "mine", "--engine", "opa", "--strict").code == 1


def test_test_prints_failures_coverage_and_junit(shell: Any, bundle: Path) -> None:
    done = shell("policy", "test", "mine", "--junit", "out.xml")
    assert done.code == 1
    assert "failed: p_test.rego:7: data.meshflow.policy_test.test_fails is undefined, not true" in done.out
    assert "1 test passed, 1 failed" in done.out
    assert len(list(ElementTree.parse(shell.folder / "out.xml").iter("testcase"))) == 2
    assert shell("policy", "test", "mine", "--only", "blocked").code == 0
    assert shell("policy", "test", "mine", "--only", "blocked", "--fail-under", "100").code == 0
    shell.write("mine/more.rego", "package more\n\nnever := 1\n")
    assert shell("policy", "test", "mine", "--only", "blocked", "--fail-under", "100").code == 1
    assert shell("policy", "test", "mine", "--only", "nothing").code == 1
    assert shell("policy", "test", "mine", "--only", "(").code == 2
    document = shell("policy", "test", "mine", "--json").document
    assert (document["passed"], len(document["tests"])) == (False, 2)
    assert [one["path"] for one in document["files"]] == ["more.rego", "p.rego"]


def test_eval_prints_the_decision(shell: Any, bundle: Path) -> None:
    shell.write("in.json", json.dumps({"tool": "shell"}))
    done = shell("policy", "eval", "mine", "--input", "@in.json")
    assert done.code == 0
    assert "blocked: shell is blocked" in done.out
    assert shell("policy", "eval", "mine", "--input", "@in.json", "--fail-on-denied").code == 1
    assert shell("policy", "eval", "mine", "--input", '{"action": "ask"}', "--fail-on-denied").code == 5
    document = shell("policy", "eval", "mine", "--input", "@-", "--json", stdin='{"tool": "other"}').document
    assert (document["effect"], document["evidence"]["engine"][:7]) == ("allow", "regorus")
    assert shell("policy", "eval", "mine", "--input", "[1]").code == 2
    assert shell("policy", "eval", "mine", "--stage", "tool_permission").code == 3


def test_eval_takes_data_of_its_own(shell: Any, bundle: Path) -> None:
    shell.write("other.yaml", "blocked: [other]\n")
    done = shell("policy", "eval", "mine", "--data", "other.yaml", "--input", '{"tool": "shell"}', "--json")
    assert done.document["effect"] == "allow"


def test_eval_by_another_engine(shell: Any, bundle: Path) -> None:
    pytest.importorskip("opa_bindings")
    document = shell("policy", "eval", "mine", "--engine", "golib", "--input", '{"tool": "shell"}', "--json").document
    assert (document["effect"], document["evidence"]["engine"]) == ("deny", "golib 0.4.4")


def test_the_engine_opa_needs_a_server(shell: Any, bundle: Path) -> None:
    done = shell("policy", "eval", "mine", "--engine", "opa")
    assert done.code == 3
    assert "plugins.rego.server.url" in done.err


def test_explain_says_which_values_decided(shell: Any, bundle: Path) -> None:
    done = shell("policy", "explain", "mine", "--input", '{"tool": "shell"}')
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "deny: policy_evaluation.denied"
    assert "p.rego:9  data.meshflow.policy.denials says blocked, because" in lines
    assert '    yes input.tool in data.blocked   where data.blocked is ["shell"], input.tool is "shell"' in lines
    assert "careful" not in done.out
    whole = shell("policy", "explain", "mine", "--input", '{"tool": "shell"}', "--all").out
    assert '    no  input.action == "ask"' in whole
    document = shell("policy", "explain", "mine", "--input", '{"tool": "shell"}', "--json").document
    assert [one["decides"] for one in document["rules"] if one["rule"].endswith("denials")] == [True]


def test_explain_obeys_no_control_character_of_the_document(shell: Any, bundle: Path) -> None:
    document = json.dumps({"tool": "\u001b[2Jshell"})
    out = shell("policy", "explain", "mine", "--all", "--input", document).out
    assert "\u001b" not in out


def test_bench_measures(shell: Any, bundle: Path) -> None:
    document = shell("policy", "bench", "mine", "--seconds", "0.05", "--at-once", "3", "--json").document
    assert document["decisions"] > 3
    assert document["p50_ms"] <= document["p99_ms"]
    assert "a second" in shell("policy", "bench", "mine", "--seconds", "0.02").out


def test_the_configured_bundle_is_the_default(shell: Any, bundle: Path) -> None:
    shell.write("meshflow.yaml", "version: 1\nplugins:\n  rego: {bundle: mine}\n")
    assert shell("policy", "check").out.startswith("mine: 2 files, 0 errors")


def test_a_bundle_that_is_not_there_is_a_configuration_error(shell: Shell) -> None:
    assert shell("policy", "check", "nowhere").code == 3


@pytest.mark.parametrize("stage", ["policy_evaluation", "compliance_profile", "tool_permission", "output_guardrails"])
def test_the_schemas_of_a_policys_input_and_answer_are_printed(shell: Shell, stage: str) -> None:
    schema = shell("schema", "--policy-input", stage).document
    jsonschema_rs.meta.validate(schema)
    assert schema["properties"]["stage"] == {"const": stage, "description": "The stage that asks."}
    answer = shell("schema", "--policy-answer").document
    jsonschema_rs.meta.validate(answer)
    assert answer["required"] == ["allow"]
    assert shell("schema", "--policy-answer", "--policy-input", stage).code == 2


def test_backtest_says_what_would_flip_and_fails_on_it(shell: Any, ledger: Path) -> None:
    done = shell("policy", "backtest", "--fail-on", "undecidable")
    assert done.code == 0, done.out
    assert "0 would flip" in done.out
    shell.write("new/p.rego", 'package meshflow.policy\n\ndecision := {"allow": input.tool != "refund"}\n')
    shell.write("new/t.rego", 'package meshflow.tools\n\ndecision := {"allow": true}\n')
    done = shell(
        "policy", "backtest", "new", "--fail-on", "flip", "--html", "out.html", "--step-url", "https://c/{run}/{step}"
    )
    assert done.code == 1
    assert "allow to deny" in done.out
    assert "meshflow ledger show --ledger" not in done.out.replace("meshflow ledger show --ledger meshflow_runs.db", "")
    page = (shell.folder / "out.html").read_text("utf-8")
    assert 'href="https://c/desk/5"' in page
    document = shell("policy", "backtest", "new", "--json").document
    assert {row["key"] for row in document["kinds"]} == {"allow to deny", "escalate to allow"}
    assert (document["looser"], document["flips"]) == (1, 2)
    assert shell("policy", "backtest", "new", "--fail-on", "looser").code == 1


def test_backtest_takes_a_run_a_tenant_and_a_time(shell: Any, ledger: Path) -> None:
    everything = shell("policy", "backtest", "--json").document
    one = shell("policy", "backtest", "--run", "old", "--json").document
    assert (one["runs"], one["steps"]) == (1, 1)
    assert shell("policy", "backtest", "--tenant", "globex", "--json").document["steps"] == 1
    assert shell("policy", "backtest", "--until", "2000-01-01T00:00:00Z", "--json").document["steps"] == 0
    assert (
        shell("policy", "backtest", "--since", "2000-01-01T00:00:00Z", "--json").document["steps"]
        == everything["steps"]
    )
    assert shell("policy", "backtest", "--plugin", "compliance", "--json").document["decisions"] == 0


def test_backtest_refuses_what_it_cannot_read(shell: Any, ledger: Path) -> None:
    assert shell("policy", "backtest", "--step-url", "https://console/steps").code == 2
    assert shell("policy", "backtest", "--ledger", "nowhere.db").code == 4
    assert shell("policy", "backtest", "--since", "yesterday").code == 2
    shell.write("none/p.rego", "package other\n\nx := 1\n")
    assert shell("policy", "backtest", "none").code == 3


def test_sign_and_verify(shell: Any, bundle: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem, raw = serialization.Encoding.PEM, serialization.NoEncryption()
    (shell.folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, raw))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (shell.folder / "key.pub").write_bytes(public)
    assert shell("policy", "verify", "mine", "--key", "key.pub").code == 3
    signed = shell("policy", "sign", "mine", "--key", "key.pem", "--key-id", "k", "--scope", "s", "--json").document
    assert signed["algorithm"] == "EdDSA"
    verified = shell("policy", "verify", "mine", "--key", "key.pub", "--key-id", "k", "--scope", "s", "--json").document
    assert (verified["digest"], verified["files"]) == (signed["digest"], ["data.yaml", "p.rego", "p_test.rego"])
    assert "3 files as they were signed" in shell("policy", "verify", "mine", "--key", "key.pub", "--scope", "s").out
    assert "scope is 's', and none is asked for" in shell("policy", "verify", "mine", "--key", "key.pub").err
    shell.write("mine/p.rego", POLICY + "\n")
    done = shell("policy", "verify", "mine", "--key", "key.pub", "--scope", "s")
    assert done.code == 3
    assert "is not the file that was signed" in done.err
