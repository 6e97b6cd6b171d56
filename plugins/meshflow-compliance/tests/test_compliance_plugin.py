"""The compliance plugin: abstains without a profile, and names the control where it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshflow.plugin import (
    ComplianceProfile,
    ConfigError,
    Decision,
    Effect,
    Host,
    NodeInput,
    Principal,
    TenantScope,
    context_for,
)
from meshflow.profiles import find_pack
from meshflow.testing import StageConformance
from meshflow_compliance import CODES, CompliancePlugin, ComplianceSettings, ProfileUse

LEE = Principal("dr.lee", "chart-agent", "https://id.example", True, ("nurse",), "clinic")

MANIFEST = """
name: {name}
title: Test profile
version: "1"
edition: "1"
controls: [{{id: {name} 1, title: t, source: s, how: h, evidence: [{{holds: {{executed: true}}}}]}}]
required_stages: [audit_ledger]
not_covered: [{{id: {name} 2, title: t, why: w}}]
"""


class TestWithoutProfiles(StageConformance):
    plugin_type = CompliancePlugin
    stage = "compliance_profile"


class TestHipaa(StageConformance):
    plugin_type = CompliancePlugin
    stage = "compliance_profile"
    settings: ClassVar[dict[str, Any]] = {"profiles": ["hipaa"]}


@asynccontextmanager
async def opened(*profiles: Any, base: Path | None = None, **settings: Any) -> AsyncIterator[CompliancePlugin]:
    chosen = ComplianceSettings.model_validate({"profiles": profiles, **settings})
    plugin = CompliancePlugin(chosen, Host(base=base or Path()))
    await plugin.startup()
    try:
        yield plugin
    finally:
        await plugin.shutdown()


async def ask(plugin: CompliancePlugin, who: Principal = LEE, **changes: Any) -> Decision:
    node = NodeInput(**{"node_id": "n", "kind": "tool", "tool": "read_chart", "input": {"id": 7}, **changes})
    context = context_for(node, identity_verification=who, tenant_scoping=TenantScope("clinic"))
    decision = await plugin.apply_compliance_profile(context)
    assert decision is not None
    return decision


def pack(root: Path, name: str, rules: str) -> str:
    folder = root / name
    folder.mkdir()
    (folder / "profile.yaml").write_text(MANIFEST.format(name=name), encoding="utf-8")
    (folder / "rules.rego").write_text(f"package meshflow.compliance\n\n{rules}\n", encoding="utf-8")
    return f"./{name}"


async def test_without_a_profile_it_abstains_and_has_no_digest() -> None:
    async with opened() as plugin:
        context = context_for(NodeInput(node_id="n", input=object()))
        assert await plugin.apply_compliance_profile(context) is None
        assert plugin.digest() == ""


async def test_a_step_that_complies_carries_the_profile_and_its_obligations() -> None:
    async with opened("hipaa") as plugin:
        decision = await ask(plugin)
        assert decision.effect is Effect.ALLOW
        assert isinstance(decision.fact, ComplianceProfile)
        assert (decision.fact.names, decision.fact.digest) == (("hipaa",), plugin.digest())
        assert "45 CFR 164.312(d)" in decision.fact.controls
        assert [duty.name for duty in decision.obligations] == ["mask_entities"]
        assert "US_SSN" in decision.obligations[0].parameters["entities"]


async def test_a_denial_names_control_profile_rule_and_bundle() -> None:
    async with opened("hipaa") as plugin:
        decision = await ask(plugin, Principal("dr.lee", "chart-agent", roles=("nurse",)))
    assert (decision.effect, decision.code) == (Effect.DENY, "compliance_profile.denied")
    assert decision.evidence["control"] == "45 CFR 164.312(d)"
    assert decision.evidence["profile"] == "hipaa"
    assert decision.evidence["rules"] == ["hipaa.not_authenticated"]
    assert len(decision.evidence["bundle_digest"]) == 64
    assert "(45 CFR 164.312(d))" in decision.reason


async def test_an_escalation_carries_the_fact_and_the_obligations_too() -> None:
    async with opened("hipaa") as plugin:
        decision = await ask(plugin, risk="irreversible")
    assert (decision.effect, decision.code) == (Effect.ESCALATE, "compliance_profile.escalated")
    assert decision.evidence["control"] == "45 CFR 164.308(a)(3)(ii)(A)"
    assert isinstance(decision.fact, ComplianceProfile)
    assert [duty.name for duty in decision.obligations] == ["mask_entities"]


async def test_settings_reach_the_rules() -> None:
    async with opened({"use": "hipaa", "treatment_roles": ["nurse"]}) as plugin:
        assert (await ask(plugin, metadata={"purpose": "treatment"})).obligations == ()
        assert len((await ask(plugin)).obligations) == 1


async def test_of_several_profiles_that_ask_the_codes_of_all_are_told(tmp_path: Path) -> None:
    asks = 'decision := {{"allow": true, "escalate": true, "reasons": [{{"code": "{}"}}]}}'
    names = [pack(tmp_path, name, asks.format(f"of_{name}")) for name in ("one", "two")]
    async with opened(*names, base=tmp_path) as plugin:
        asked = await ask(plugin, action="go")
    assert asked.evidence["codes"] == ["of_one", "of_two"]


async def test_of_several_profiles_the_strictest_holds_and_obligations_add_up(tmp_path: Path) -> None:
    names = [
        pack(tmp_path, "one", 'decision := {"allow": true, "obligations": [{"name": "cap_output", "parameters": {}}]}'),
        pack(tmp_path, "two", 'decision := {"allow": true, "escalate": input.action == "ask", "reasons": []}'),
        pack(tmp_path, "three", 'decision := {"allow": input.action != "no", "reasons": '
            '[{"code": "c", "control": "three 1", "rule": "three.c"}]}'),
    ]  # fmt: skip
    async with opened("hipaa", *names, base=tmp_path) as plugin:
        allowed = await ask(plugin, action="go")
        asked = await ask(plugin, action="ask")
        denied = await ask(plugin, action="no")
        undefined = await ask(plugin, action=None)
    assert allowed.effect is Effect.ALLOW
    assert {duty.name for duty in allowed.obligations} == {"mask_entities", "cap_output"}
    assert allowed.evidence["profiles"] == ["hipaa", "one", "two", "three"]
    assert allowed.fact.names == ("hipaa", "one", "two", "three")
    assert asked.effect is Effect.ESCALATE
    assert {duty.name for duty in asked.obligations} == {"mask_entities", "cap_output"}
    assert (denied.effect, denied.evidence["profile"], denied.evidence["control"]) == (Effect.DENY, "three", "three 1")
    assert undefined.effect is Effect.ALLOW


async def test_one_profile_used_twice_must_be_satisfied_both_times() -> None:
    strict = {"use": "hipaa", "allowed_roles": ["surgeon"]}
    async with opened("hipaa", strict) as plugin:
        decision = await ask(plugin)
    assert decision.evidence["control"] == "45 CFR 164.308(a)(4)(ii)(B)"


async def test_a_profile_in_force_twice_is_told_with_its_strictest_word(tmp_path: Path) -> None:
    rules = """decision := {"allow": level != "no", "escalate": level == "ask", "reasons": [{"code": level}]}

level := data.meshflow.profile.settings.level"""
    name = pack(tmp_path, "one", rules)
    manifest = tmp_path / "one" / "profile.yaml"
    manifest.write_text(manifest.read_text() + "settings: {level: {default: ask, about: a}}\n")
    uses = [{"use": name, "level": level} for level in ("ask", "no", "fine")]
    async with opened(*uses, base=tmp_path) as plugin:
        decision = await ask(plugin)
    assert decision.effect is Effect.DENY
    assert decision.evidence["said"] == {"one": {"effect": "deny", "codes": ["no", "ask"]}}


@pytest.mark.parametrize(
    ("rules", "cause"),
    [
        ('decision := {"allow": true} if input.nothing', "undefined"),
        ('decision := {"allow": true} if input.tool\n\ndecision := {"allow": false} if input.tool', "conflict"),
        ("decision := true", "malformed_answer"),
        ('decision := {"allow": to_number(input.tool) > 1}', "engine_error"),
    ],
)
async def test_a_profile_that_gives_no_answer_denies(tmp_path: Path, rules: str, cause: str) -> None:
    async with opened(pack(tmp_path, "odd", rules), base=tmp_path) as plugin:
        decision = await ask(plugin)
    assert (decision.effect, decision.code) == (Effect.DENY, f"compliance_profile.{cause}")
    assert decision.code in CODES
    assert decision.evidence["profile"] == "odd"


@pytest.mark.parametrize("changes", [{"input": {"x": float("nan")}}, {"estimate_usd": "much"}])
async def test_a_step_that_cannot_be_shown_whole_is_denied(changes: dict[str, Any]) -> None:
    async with opened("hipaa") as plugin:
        assert (await ask(plugin, **changes)).code == "compliance_profile.unencodable_input"


async def test_a_pack_without_the_entry_point_or_with_broken_rules_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks data\.meshflow\.compliance\.decision"):
        async with opened(pack(tmp_path, "empty", "other := 1"), base=tmp_path):
            pass
    with pytest.raises(ConfigError, match=r"rules\.rego:3: io\.jwt\.decode"):
        async with opened(pack(tmp_path, "jwt", "decision := io.jwt.decode(1)"), base=tmp_path):
            pass


async def test_presidio_can_find_every_entity_that_the_pack_asks_to_mask() -> None:
    presidio = pytest.importorskip("meshflow_presidio")
    wanted = set(find_pack("hipaa", {}, Path()).manifest.entities)
    assert wanted <= set(presidio.PresidioSettings().actions())
    assert "mask_entities" in presidio.PresidioPlugin.meets


def test_settings_take_names_mappings_and_a_single_one() -> None:
    settings = ComplianceSettings.model_validate({"profiles": ["hipaa", {"use": "sox", "x": 1}, "hipaa"]})
    assert [(one.use, one.given) for one in settings.uses] == [("hipaa", {}), ("sox", {"x": 1})]
    assert ComplianceSettings.model_validate({"profiles": "hipaa"}).uses == (ProfileUse(use="hipaa"),)
    assert ComplianceSettings.model_validate({"profiles": {"use": "hipaa"}}).uses == (ProfileUse(use="hipaa"),)
    assert ComplianceSettings().uses == ()


def test_importing_the_plugin_imports_no_engine() -> None:
    code = "import sys, meshflow_compliance; print('regorus' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n"
