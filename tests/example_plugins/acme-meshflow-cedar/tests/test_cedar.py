"""The package's own tests: the conformance kit, and what Cedar decides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from acme_meshflow_cedar import CODES, CedarPolicy, CedarSettings

from meshflow.plugin import ConfigError, Decision, Effect, Host, NodeInput, Principal, context_for
from meshflow.testing import StageConformance

POLICIES = """
@id("operators-read") permit(principal in Role::"ops", action == Action::"read", resource);
@id("refunds") permit(principal in Role::"ops", action, resource == Tool::"payments.refund");
@id("refund-cap") forbid(principal, action, resource == Tool::"payments.refund")
  when { context.arguments.amount.greaterThan(decimal("50.0")) };
"""
OPS = Principal("alice", "agent-1", roles=("ops",), verified=True)


class TestContract(StageConformance):
    plugin_type = CedarPolicy
    stage = "policy_evaluation"
    settings: ClassVar[Mapping[str, Any]] = {"policies": POLICIES}
    facts: ClassVar[Mapping[str, Any]] = {"identity_verification": OPS}

    def steps(self) -> Iterable[NodeInput]:
        return [read(), refund(10.5), refund(50.01), refund("many"), NodeInput(node_id="other", action="delete")]


def read() -> NodeInput:
    return NodeInput(node_id="n", action="read", input="anything")


def refund(amount: object) -> NodeInput:
    return NodeInput(node_id="n", kind="tool", tool="payments.refund", input={"amount": amount})


def decide(step: NodeInput, principal: Principal | None = OPS, **settings: Any) -> Decision:
    plugin = CedarPolicy(CedarSettings(**settings or {"policies": POLICIES}))
    return asyncio.run(plugin.evaluate_policy(context_for(step, identity_verification=principal)))


def test_permit_names_the_policy_that_matched() -> None:
    decision = decide(read())
    assert (decision.effect, decision.reason) == (Effect.ALLOW, "permitted by operators-read")


def test_no_permit_denies() -> None:
    decision = decide(NodeInput(node_id="n", action="delete"))
    assert (decision.effect, decision.code) == (Effect.DENY, "policy_evaluation.denied")


def test_forbid_overrides_permit_and_is_named() -> None:
    assert decide(refund(49.99)).effect is Effect.ALLOW
    assert decide(refund(50.01)).reason == "forbidden by refund-cap"


def test_role_of_nobody_gives_nothing() -> None:
    assert decide(read(), Principal("mallory", "agent-1")).code == "policy_evaluation.denied"


def test_policy_that_fails_denies_instead_of_being_skipped() -> None:
    assert decide(refund("many")).code == "policy_evaluation.cedar_error"


@pytest.mark.parametrize(
    "arguments",
    [
        {"__extn": {"fn": "decimal", "arg": "1.0"}},
        {"amount": {"__entity": {"type": "User", "id": "admin"}}},
        {"amount": float("nan")},
        {"amount": 1.00001},
        {"amount": 2**63},
        {"note": "x" * 70_000},
        {"note": "\ud800"},
    ],
)
def test_arguments_that_cedar_cannot_take_deny(arguments: dict[str, Any]) -> None:
    step = NodeInput(node_id="n", kind="tool", tool="payments.refund", input=arguments)
    assert decide(step).code == "policy_evaluation.unsupported_input"


def test_id_with_quotes_is_data() -> None:
    hostile = Principal('x"} || true || principal == User::"alice', "agent-1")
    assert decide(read(), hostile).code == "policy_evaluation.denied"


def test_user_of_the_entities_file_has_the_roles_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "entities.json").write_text('[{"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": []}]')
    settings = CedarSettings(policies=POLICIES, entities_file=Path("entities.json"))
    plugin = CedarPolicy(settings, Host(base=tmp_path))
    decision = asyncio.run(plugin.evaluate_policy(context_for(read(), identity_verification=OPS)))
    assert decision.code == "policy_evaluation.denied"


@pytest.mark.parametrize(
    "settings",
    [{"policies": "permit(principal"}, {"policies_file": "nowhere.cedar"}],
    ids=["not Cedar", "no file"],
)
def test_wrong_settings_are_found_when_the_plugin_is_made(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.cedar\.policies"):
        decide(read(), **settings)


def test_digest_changes_with_the_policies() -> None:
    one, other = (CedarPolicy(CedarSettings(policies=text)) for text in (POLICIES, POLICIES + "// changed"))
    assert one.digest() != other.digest()


def test_codes_are_listed() -> None:
    seen = {decide(step).code for step in (refund(1e9), refund("many"), refund({"__x": 1}))}
    assert seen | {decide(read(), None).code} == set(CODES)
