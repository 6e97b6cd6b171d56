"""The packs that are shipped: sound, honest, with official identifiers, and able to hold together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshflow import StepRuntime
from meshflow.errors import ConfigError
from meshflow.policy.shipped import shipped_names
from meshflow.profiles import Pack, find_pack
from meshflow.profiles.check import check_pack
from meshflow.profiles.compose import compose

if TYPE_CHECKING:
    from .conftest import World

NAMES = shipped_names("profiles")
IDENTIFIERS = {
    "hipaa": r"45 CFR 164\.\d{3}(\([a-z0-9]+\)|\([a-zA-Z]+\))*",
    "gdpr": r"GDPR Art\. \d+(\(\d\))?(\([a-z]\))?",
    "pci-dss": r"PCI DSS \d+(\.\d+){2,3}",
    "sox": r"(15|18) U\.S\.C\. \w+(\(\w+\))*|17 CFR 240\.13a-15\(f\)\([123]\)|COSO 2013 Principle 1[01]",
    "nerc-cip": r"CIP-\d{3}-\d R\d Part \d\.\d",
    "soc2": r"TSC (CC\d\.\d|C1\.[12])",
    "nist-ai-rmf": r"NIST AI RMF (GOVERN|MAP|MEASURE|MANAGE) \d\.\d+",
    "iso-42001": r"ISO/IEC 42001 A\.\d+(\.\d+){1,2}",
    "eu-ai-act": r"EU AI Act Art\. \d+\(\d\)(\([a-e]\))?",
}


def pack(name: str) -> Pack:
    return find_pack(name, {}, Path())


def rules(name: str) -> str:
    bundle = pack(name).bundle
    assert bundle is not None
    return bundle.policies["compliance.rego"]


def test_those_are_shipped_that_are_promised() -> None:
    assert set(NAMES) >= {
        "hipaa",
        "gdpr",
        "pci-dss",
        "sox",
        "nerc-cip",
        "eu-ai-act",
        "soc2",
        "nist-ai-rmf",
        "iso-42001",
    }
    assert set(NAMES) == set(IDENTIFIERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_is_sound(name: str) -> None:
    found = check_pack(pack(name))
    assert found.problems == []
    assert found.tests >= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_is_honest_and_names_its_controls_as_the_framework_does(name: str) -> None:
    manifest = pack(name).manifest
    assert manifest.name == name
    for control in manifest.controls:
        assert re.fullmatch(IDENTIFIERS[name], control.id), control.id
        assert control.source.startswith("https://")
    assert len(manifest.not_covered) >= 8
    assert "audit_ledger" in manifest.required_stages
    assert manifest.requires["signed_checkpoints"] is True


@pytest.mark.parametrize("name", NAMES)
def test_controls_obligations_and_settings_of_rules_are_those_of_the_manifest(name: str) -> None:
    manifest, text = pack(name).manifest, rules(name)
    named = set(re.findall(r'reason\(\s*"\w+", "([^"]+)"', text))
    assert len(named) >= 4
    for control in named:
        assert any(one.id == control or one.id.endswith(f" {control}") for one in manifest.controls), control
    assert ("pack.mask" in text) is ("mask_entities" in manifest.obligations)
    asked = set(re.findall(r'pack\.(?:setting|listed|acts|approver_listed|roles_conflict)\("(\w+)"', text))
    assert asked <= manifest.settings.keys()
    shared = {"supervised", "shared_accounts", "extra_entities"}
    evidence = str(manifest.model_dump())
    unused = {one for one in manifest.settings if one not in asked | shared and f"'setting': '{one}'" not in evidence}
    assert not unused


def test_all_of_them_hold_together_and_the_strictest_wins() -> None:
    whole = compose([(place, pack(name)) for place, name in enumerate(NAMES)])
    assert whole.assurances["encrypted_payloads"].packs == ("gdpr",)
    assert whole.keep_at_least_days is not None
    assert (whole.keep_at_least_days.value, whole.keep_at_least_days.packs) == (2192, ("hipaa",))
    assert whole.keep_bounded is not None
    assert whole.entities["CREDIT_CARD"].packs == ("gdpr", "hipaa", "pci-dss")


async def test_two_profiles_bind_one_step_and_both_are_on_record(world: World, judged: Any) -> None:
    uses = ["hipaa", {"use": "sox", "financial": ["post_*"]}]
    tools = {"tools": {"post_journal": {"risk": "external_io", "sink": "internal"}}}
    async with world.running(world.config(*uses, tools=tools)) as runtime:
        both = await world.act(runtime, {"roles": []}, kind="tool", tool="post_journal")
        assert "hipaa.no_role" in both.reason
        (told,) = (one.evidence for one in both.results if one.stage == "compliance_profile" and one.evidence)
        assert told["profiles"] == ["hipaa", "sox"]
        assert {name: said["effect"] for name, said in told["said"].items()} == {"hipaa": "deny", "sox": "deny"}
        assert (await world.approved(runtime, {}, kind="tool", tool="post_journal")).ok
    for name in ("hipaa", "sox"):
        report = await world.report(name)
        assert report["records"]["steps_under_profile"] == 3
        assert "violated" not in judged.states(report).values()


def written(folder: Path, name: str, more: str) -> str:
    folder = folder / name
    folder.mkdir()
    (folder / "profile.yaml").write_text(
        f"name: {name}\ntitle: t\nversion: '1'\nedition: '1'\ncontrols:\n  - {{id: {name} 1, title: t, source: s, "
        f"how: h, evidence: [{{holds: {{executed: true}}}}]}}\nnot_covered: [{{id: {name} 9, title: t, why: w}}]\n"
        + more,
        "utf-8",
    )
    (folder / "rules.rego").write_text('package meshflow.compliance\n\ndecision := {"allow": true}\n', "utf-8")
    return str(folder)


SETTING = "required_settings: [{{setting: plugins.presidio.timeout_ms, {}, why: because}}]\n"


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        (
            "retention: {at_least_days: 400}\n", "retention: {at_most_days: 30}\n",
            "one keeps records for at least 400 days and two for at most 30; these profiles cannot hold together",
        ),
        (SETTING.format("equals: 5"), SETTING.format("equals: 6"), r"one wants \[5\], two wants \[6\]"),
        (SETTING.format("at_least: 9"), SETTING.format("at_most: 8"), "one wants at least 9, two at most 8"),
        (SETTING.format("one_of: [1, 2]"), SETTING.format("at_least: 3"), r"one wants \[1, 2\], two another range"),
        (SETTING.format("equals: fast"), SETTING.format("at_most: 3"), r"one wants \['fast'\], two another range"),
    ],
)  # fmt: skip
def test_profiles_that_cannot_hold_together_are_named(tmp_path: Path, first: str, second: str, part: str) -> None:
    profiles = [written(tmp_path, "one", first), written(tmp_path, "two", second)]
    with pytest.raises(ConfigError, match=part):
        StepRuntime(config={"profiles": profiles})


@pytest.mark.parametrize(
    ("wanted", "given", "part"),
    [
        ("equals: 5", 2_000, "plugins.presidio.timeout_ms: one requires 5, not 2000: because"),
        ("one_of: [5, 6]", 2_000, "one requires one of 5, 6, not 2000"),
        ("at_most: 100", 2_000, "one requires at most 100, not 2000"),
        ("at_least: 5000", 2_000, "one requires at least 5000, not 2000"),
        ("at_most: 5000", 2_000, ""),
        ("one_of: [2000]", 2_000, ""),
    ],
)
def test_a_required_setting_is_compared(tmp_path: Path, wanted: str, given: int, part: str) -> None:
    config = {"profiles": [written(tmp_path, "one", SETTING.format(wanted))]}
    config |= {"plugins": {"presidio": {"timeout_ms": given}}}  # type: ignore[dict-item]
    if not part:
        StepRuntime(config=config)
        return
    with pytest.raises(ConfigError, match=part):
        StepRuntime(config=config)


def test_a_setting_of_a_plugin_that_is_not_in_use_cannot_be_met(tmp_path: Path) -> None:
    more = "required_settings: [{setting: plugins.cedar.policies, is_set: true, why: Cedar decides}]\n"
    with pytest.raises(ConfigError, match=r"one requires the plugin cedar \(Cedar decides\), which is not in use"):
        StepRuntime(config={"profiles": [written(tmp_path, "one", more)]})


def test_an_end_to_retention_is_demanded_where_a_profile_bounds_it(world: World, tmp_path: Path) -> None:
    bounded = written(tmp_path, "one", "retention: {at_most_days: 30}\n")
    with pytest.raises(ConfigError, match="one needs an end to retention; add a rule without match and fields"):
        StepRuntime(config=world.config(bounded))
    rules = [{"match": {"tool": "x"}, "keep": "5d"}, {"keep": "31d"}]
    with pytest.raises(ConfigError, match=r"ledger\.retention\[1\]: one keeps records for at most 30 days"):
        StepRuntime(config=world.config(bounded, ledger={"retention": rules}))
    StepRuntime(config=world.config(bounded, ledger={"retention": [{"keep": "30d"}]}))


async def test_a_pack_that_extends_another_is_bound_by_both_and_reported_with_both(
    world: World, judged: Any, tmp_path: Path
) -> None:
    child = written(tmp_path, "clinic", "extends: [{use: hipaa, supervised: [export_chart]}]\n")
    with pytest.raises(ConfigError, match="hipaa requires verified_identity"):
        StepRuntime(config={"profiles": [child]})
    async with world.running(world.config(child)) as runtime:
        assert "hipaa.no_role" in (await world.act(runtime, {"roles": []})).reason
        waiting = await world.act(runtime, {}, action="export_chart")
        assert waiting.code == "compliance_profile.escalated"
    report = await world.report(child)
    assert {control["profile"] for control in report["controls"]} == {"hipaa", "clinic"}
    assert report["profile"]["extends"] == ["hipaa"]
    assert report["profile"]["settings"]["hipaa"]["supervised"] == ["export_chart"]
