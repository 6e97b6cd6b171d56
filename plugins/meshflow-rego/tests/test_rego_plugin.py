"""The rego plugin: where its bundle comes from, which stages it answers at, and with which codes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.plugin import (
    Confidentiality,
    ConfigError,
    Decision,
    Effect,
    Host,
    NodeInput,
    Origin,
    Principal,
    RiskTier,
    StepContext,
    TaintLabels,
    TenantScope,
    context_for,
)
from meshflow.policy import Policy, PolicyAnswer, PolicyFailure
from meshflow_rego import CODES, RegoPlugin, RegoSettings

ANA = Principal("ana", "desk", roles=("support",))
ALLOW = 'package meshflow.policy\n\ndecision := {"allow": true}\n'


def step(**changes: Any) -> NodeInput:
    return NodeInput(**{"node_id": "n", "kind": "tool", "tool": "lookup_order", "input": {"id": 7}, **changes})


def seen(
    node: NodeInput, risk: RiskTier = RiskTier.INTERNAL, labels: TaintLabels | None = None, who: Principal = ANA
) -> StepContext:
    return context_for(
        node,
        clock=ManualClock(),
        identity_verification=who,
        tenant_scoping=TenantScope("acme"),
        risk_classification=risk,
        taint_propagation=labels or TaintLabels(),
    )


@asynccontextmanager
async def opened(
    policy: Any = None, base: Path | None = None, tenant: str | None = None, **settings: Any
) -> AsyncIterator[RegoPlugin]:
    plugin = RegoPlugin(RegoSettings(**settings), Host(base=base or Path(), policy=policy, tenant=tenant))
    await plugin.startup()
    try:
        yield plugin
    finally:
        await plugin.shutdown()


def effect(decision: Decision | None) -> Effect:
    assert decision is not None
    return decision.effect


async def test_without_settings_the_starter_bundle_lets_a_newcomer_work() -> None:
    async with opened() as plugin:
        for node in (step(), step(kind="function", tool=None, input="hello"), step(kind="model", tool=None)):
            assert effect(await plugin.evaluate_policy(seen(node))) is Effect.ALLOW
            assert effect(await plugin.authorize_tool(seen(node))) is Effect.ALLOW
            assert await plugin.apply_compliance_profile(seen(node)) is None
            assert await plugin.guard_output(seen(node), "out") is None


async def test_the_starter_bundle_asks_a_person_about_what_cannot_be_undone() -> None:
    async with opened() as plugin:
        decision = await plugin.authorize_tool(seen(step(tool="refund"), RiskTier.IRREVERSIBLE))
    assert decision is not None
    assert (decision.effect, decision.code) == (Effect.ESCALATE, "tool_permission.policy_escalated")
    assert decision.evidence["rules"] == ["meshflow.tools.needs_approval"]
    assert "refund cannot be undone" in decision.reason


async def test_the_starter_bundle_keeps_secrets_and_tenants_apart() -> None:
    secret = TaintLabels(Origin.USER, Confidentiality.SECRET)
    async with opened() as plugin:
        leaving = await plugin.authorize_tool(seen(step(), RiskTier.EXTERNAL_IO, secret))
        crossing = await plugin.evaluate_policy(seen(step(input={"tenant_id": "rival"})))
    assert leaving is not None
    assert (leaving.code, leaving.evidence["codes"]) == ("tool_permission.policy_denied", ["secret_leaves"])
    assert crossing is not None
    assert (crossing.code, crossing.evidence["codes"]) == ("policy_evaluation.denied", ["other_tenant"])


async def test_a_data_file_is_laid_over_the_starter_bundle(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "meshflow:\n  blocked_tools: ['lookup_*']\n  settings: {max_step_micro_usd: 1}\n", encoding="utf-8"
    )
    async with opened(base=tmp_path, data="mine.yaml") as plugin, opened() as plain:
        assert plugin.digest() != plain.digest()
        decision = await plugin.evaluate_policy(seen(step(estimate_usd="0.5")))
    assert decision is not None
    assert decision.evidence["codes"] == ["step_too_dear", "tool_blocked"]
    assert decision.evidence["rules"] == ["meshflow.policy.step_too_dear", "meshflow.policy.tool_blocked"]


async def test_every_record_can_name_engine_and_bundle() -> None:
    async with opened() as plugin:
        decision = await plugin.evaluate_policy(seen(step()))
        assert decision is not None
        assert decision.evidence["bundle_digest"] == plugin.digest()
        assert decision.evidence["engine"].startswith("regorus 0.")


def test_the_digest_is_known_before_start_and_follows_the_files(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(ALLOW, encoding="utf-8")
    host = Host(base=tmp_path)
    first = RegoPlugin(RegoSettings(bundle="p.rego"), host).digest()
    assert first == RegoPlugin(RegoSettings(bundle="p.rego"), host).digest()
    (tmp_path / "p.rego").write_text(ALLOW + "\n", encoding="utf-8")
    assert first != RegoPlugin(RegoSettings(bundle="p.rego"), host).digest()


async def test_a_plugin_keeps_the_bundle_that_it_read(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(ALLOW, encoding="utf-8")
    async with opened(base=tmp_path, bundle="p.rego") as plugin:
        digest = plugin.digest()
        (tmp_path / "p.rego").write_text(ALLOW.replace("true", "false"), encoding="utf-8")
        await plugin.shutdown()
        await plugin.startup()
        assert plugin.digest() == digest
        assert effect(await plugin.evaluate_policy(seen(step()))) is Effect.ALLOW


@pytest.mark.parametrize("kind", ["policy", "text path", "path"])
async def test_the_runtime_may_be_given_a_policy_or_a_path(tmp_path: Path, kind: str) -> None:
    refuse = 'package meshflow.policy\n\ndecision := {"allow": false, "reasons": [{"code": "mine"}]}\n'
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/p.rego").write_text(refuse, encoding="utf-8")
    given = {"policy": Policy.from_rego(refuse), "text path": "bundle", "path": tmp_path / "bundle"}[kind]
    async with opened(policy=given, base=tmp_path) as plugin:
        decision = await plugin.evaluate_policy(seen(step()))
    assert decision is not None
    assert decision.evidence["codes"] == ["mine"]


class OwnEngine:
    """A third party's engine."""

    name, version, bundle_digest = "own", "7", "d" * 64

    def __init__(self) -> None:
        self.closed = False

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        self.closed = True

    def has(self, entry_point: str) -> bool:
        return entry_point == "data.meshflow.policy.decision"

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        return PolicyAnswer(document["tool"] == "lookup_order")


async def test_an_engine_that_the_caller_brings_is_used_and_left_open() -> None:
    engine = OwnEngine()
    async with opened(policy=engine) as plugin:
        assert plugin.digest() == "d" * 64
        assert effect(await plugin.evaluate_policy(seen(step()))) is Effect.ALLOW
        assert effect(await plugin.evaluate_policy(seen(step(tool="x")))) is Effect.DENY
        assert await plugin.authorize_tool(seen(step())) is None
    assert not engine.closed


@pytest.mark.parametrize("given", [7, b"path", {"allow": True}, RegoSettings])
def test_another_kind_of_policy_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="must be a Policy, the path of a bundle or a policy engine"):
        RegoPlugin(RegoSettings(), Host(policy=given)).digest()


def test_two_policies_at_once_are_refused_but_for_a_tenant(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(ALLOW, encoding="utf-8")
    given = Policy.from_rego(ALLOW + "# another\n")
    settings = RegoSettings(bundle="p.rego")
    with pytest.raises(ConfigError, match=r"plugins\.rego\.bundle"):
        RegoPlugin(settings, Host(base=tmp_path, policy=given)).digest()
    own = RegoPlugin(settings, Host(base=tmp_path, policy=given, tenant="acme"))
    assert own.digest() not in ("", given.digest)


async def test_a_bundle_without_the_stage_5_entry_point_is_refused() -> None:
    other = Policy.from_rego('package meshflow.tools\n\ndecision := {"allow": true}')
    with pytest.raises(ConfigError, match=r"lacks data\.meshflow\.policy\.decision"):
        async with opened(policy=other):
            pass


async def test_a_broken_bundle_is_refused_at_start_with_path_and_line(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(ALLOW + "\nx := io.jwt.decode(1)\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        async with opened(base=tmp_path, bundle="p.rego"):
            pass
    assert str(caught.value).startswith(f"{tmp_path}/p.rego:5: io.jwt.decode")


@pytest.mark.parametrize("settings", [{"bundle": "nowhere"}, {"data": "nowhere.json"}])
def test_a_missing_file_is_a_config_error(tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        RegoPlugin(RegoSettings(**settings), Host(base=tmp_path)).digest()


STAGES = {
    "policy": ("evaluate_policy", "policy_evaluation."),
    "compliance": ("apply_compliance_profile", "compliance_profile.policy_"),
    "tools": ("authorize_tool", "tool_permission.policy_"),
    "output": ("guard_output", "output_guardrails.policy_"),
}
RULES = {
    "denied": 'decision := {"allow": false}',
    "escalated": 'decision := {"allow": true, "escalate": true}',
    "undefined": 'decision := {"allow": true} if input.nothing',
    "conflict": 'decision := {"allow": true} if input.version\n\ndecision := {"allow": false} if input.version',
    "malformed_answer": "decision := true if input.version",
    "not_boolean": 'decision := {"allow": input.version}',
    "engine_error": 'decision := {"allow": to_number(input.stage) > 1}',
    "engine_crashed": 'decision := {"allow": strings.count(input.stage, substring(input.stage, 0, 0)) > 0}',
}


@pytest.mark.parametrize("package", STAGES)
@pytest.mark.parametrize("cause", RULES)
async def test_each_cause_has_its_code_at_each_stage(
    package: str, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = {"p.rego": ALLOW}
    if package == "policy":
        texts = {}
    texts["x.rego"] = f"package meshflow.{package}\n\n{RULES[cause]}\n"
    hook, prefix = STAGES[package]
    async with opened(policy=Policy.from_rego(texts)) as plugin:
        extra = ("out",) if package == "output" else ()
        decision = await getattr(plugin, hook)(seen(step()), *extra)
    assert decision.code == prefix + cause
    assert decision.code in CODES
    assert decision.effect is (Effect.ESCALATE if cause == "escalated" else Effect.DENY)
    capfd.readouterr()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"input": {"amount": float("nan")}}, "unencodable_input"),
        ({"input": {"amount": {1, 2}}}, "unencodable_input"),
        ({"metadata": {"x": object()}}, "unencodable_input"),
        ({"estimate_usd": float("nan")}, "unencodable_input"),
        ({"input": {"text": "x" * 3_000}}, "input_too_large"),
    ],
)
async def test_a_step_that_cannot_be_shown_whole_is_denied(changes: dict[str, Any], cause: str) -> None:
    async with opened(max_input_bytes=2_048) as plugin:
        decision = await plugin.evaluate_policy(seen(step(**changes)))
    assert decision is not None
    assert (decision.effect, decision.code) == (Effect.DENY, f"policy_evaluation.{cause}")


async def test_output_rules_see_the_output() -> None:
    texts = {
        "p.rego": ALLOW,
        "o.rego": 'package meshflow.output\n\ndecision := {"allow": not_blocked}\n\ndefault not_blocked := false\n\n'
        "not_blocked if not contains(input.output, input.tool)",
    }
    async with opened(policy=Policy.from_rego(texts)) as plugin:
        assert effect(await plugin.guard_output(seen(step()), "fine")) is Effect.ALLOW
        assert effect(await plugin.guard_output(seen(step()), "lookup_order says")) is Effect.DENY
        # what the rule cannot read is an error of the rule, and so a denial
        assert effect(await plugin.guard_output(seen(step()), {"a": 1})) is Effect.DENY
        assert effect(await plugin.guard_output(seen(step()), object())) is Effect.DENY


async def test_many_steps_at_once_are_each_decided_by_their_own_document() -> None:
    rules = 'package meshflow.policy\n\ndecision := {"allow": input.arguments.n % 3 == 0}'
    async with opened(policy=Policy.from_rego(rules)) as plugin:
        decisions = await asyncio.gather(*(plugin.evaluate_policy(seen(step(input={"n": n}))) for n in range(300)))
    assert [effect(decision) is Effect.ALLOW for decision in decisions] == [n % 3 == 0 for n in range(300)]


def test_importing_the_plugin_imports_no_engine() -> None:
    code = "import sys, meshflow_rego; print('regorus' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n"
