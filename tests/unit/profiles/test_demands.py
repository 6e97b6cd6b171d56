"""A profile whose needs are not met refuses to start, and says which line to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshflow import ReplayLedger, StepRuntime
from meshflow.errors import ConfigError, PluginError
from meshflow.plugin import Decision, NoSettings, Plugin, hookimpl

if TYPE_CHECKING:
    from .conftest import World


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        StepRuntime(config=path)
    return str(caught.value).replace(str(path.parent) + "/", "")


def test_a_configuration_that_meets_every_need_starts(world: World) -> None:
    StepRuntime(config=world.write(world.config("hipaa")))


def test_each_need_is_told_with_its_line_and_the_line_that_asks_for_it(world: World) -> None:
    path = world.folder / "meshflow.yaml"
    path.write_text(
        "profiles:\n  - hipaa\nstages:\n  sensitive_data_scan:\n    mode: shadow\nledger:\n  retention:\n"
        "    - keep: 30d\nplugins:\n  identity: {}\n  presidio:\n    scan_output: false\ntools:\n"
        "  approval_from: never\n",
        "utf-8",
    )
    lines = refused(path).splitlines()
    by = r"\(asked for by profiles\[0\], .*meshflow.yaml:2\)"
    wanted = [
        r"meshflow\.yaml:5: stages\.sensitive_data_scan\.mode: hipaa requires the stage sensitive_data_scan, and it is "
        rf"in mode shadow; set mode to enforce {by}",
        r"meshflow\.yaml:8: ledger\.retention\[0\]: hipaa keeps records for at least 2192 days; this rule keeps 30 "
        rf"{by}",
        r"meshflow\.yaml:10: plugins\.identity\.keys: hipaa requires verified_identity; identity has false: set keys .*"
        rf"{by}",
        r"meshflow\.yaml:12: plugins\.presidio\.scan_output: hipaa requires outputs_scanned; presidio has false: .*",
        r"meshflow\.yaml:14: tools\.approval_from: hipaa requires approval_from: irreversible; tools has never: .*",
    ]
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ("input_guardrails", {"mode": "disabled"}),
        ("output_guardrails", {"mode": "shadow"}),
        ("tool_permission", {"mode": "disabled", "unsafe": True}),
        ("audit_ledger", {"mode": "disabled", "unsafe": True}),
    ],
)
def test_a_required_stage_that_is_not_enforced_refuses(world: World, stage: str, config: dict[str, Any]) -> None:
    message = refused(world.write(world.config("hipaa", ledger=None, stages={stage: config})))
    assert f"hipaa requires the stage {stage}, and it is in mode {config['mode']}" in message


def test_a_ledger_that_signs_nothing_refuses(world: World) -> None:
    ledger = ReplayLedger(world.ledger, key=None)
    with pytest.raises(ConfigError, match="hipaa requires signed_checkpoints; ledger has false: give the ledger a key"):
        StepRuntime(ledger, config=world.config("hipaa", ledger=None))
    StepRuntime(ReplayLedger(world.ledger), config=world.config("hipaa", ledger=None))


def test_an_entity_that_nothing_looks_for_refuses(world: World) -> None:
    profile = {"use": "hipaa", "extra_entities": ["PERSON"]}
    StepRuntime(config=world.config(profile))  # a setting is for the rules; the scan denies by name what it cannot find
    text = (Path(__file__).parents[3] / "policies/profiles/hipaa/profile.yaml").read_text("utf-8")
    folder = world.folder / "pack"
    folder.mkdir()
    (folder / "profile.yaml").write_text(text.replace("US_SSN: mask", "PERSON: mask\n  US_SSN: deny"), "utf-8")
    (folder / "rules.rego").write_text('package meshflow.compliance\n\ndecision := {"allow": true}\n', "utf-8")
    with pytest.raises(ConfigError) as caught:
        StepRuntime(config=world.config(str(folder)))
    assert "hipaa requires that PERSON be found, and nothing enforced looks for it" in str(caught.value)
    assert "plugins.presidio.entities.US_SSN: hipaa requires that US_SSN be refused" in str(caught.value)
    config = world.config(
        str(folder), plugins={"presidio": {"entities": {"US_SSN": "deny"}, "patterns": {"PERSON": "Xy"}}}
    )
    StepRuntime(config=config)


def test_an_entity_that_no_rule_has_masked_must_be_masked_by_settings(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    folder.mkdir()
    manifest = (
        "name: one\ntitle: t\nversion: '1'\nedition: '1'\nentities: [IP_ADDRESS]\ncontrols:\n  - {id: one 1, title: t, "
        "source: s, how: h, evidence: [{holds: {executed: true}}]}\nnot_covered: [{id: one 9, title: t, why: w}]\n"
    )
    (folder / "rules.rego").write_text('package meshflow.compliance\n\ndecision := {"allow": true}\n', "utf-8")
    config = world.config(str(folder), plugins={"presidio": {"entities": {"IP_ADDRESS": "allow"}}})
    (folder / "profile.yaml").write_text(manifest, "utf-8")
    with pytest.raises(ConfigError, match=r"IP_ADDRESS: one requires that IP_ADDRESS be masked; set its action"):
        StepRuntime(config=config)
    (folder / "profile.yaml").write_text(manifest + "obligations: [mask_entities]\n", "utf-8")
    StepRuntime(config=config)  # its rules ask for masking where it must be


def test_an_obligation_that_nobody_meets_refuses(world: World) -> None:
    use = {"output_guardrails": {"use": "guardrails"}, "sensitive_data_scan": {"use": "scan"}}
    with pytest.raises(ConfigError) as caught:
        StepRuntime(config=world.config("hipaa", stages=use), plugins={"scan": Silent(NoSettings())})
    assert "hipaa may oblige a step to mask_entities, which no enforced plugin meets" in str(caught.value)


class Silent(Plugin[NoSettings]):
    """Vouches for nothing."""

    @hookimpl
    async def scan_sensitive_data(self) -> Decision | None:
        return None

    @hookimpl
    async def verify_identity(self) -> Decision | None:
        return None


class Vouching(Silent):
    def assures(self) -> dict[str, Any]:
        return {"verified_identity": True}


def test_a_plugin_of_another_make_must_vouch_for_what_is_required(world: World) -> None:
    config = world.config("hipaa", plugins=None, stages={"identity_verification": "other"})
    with pytest.raises(ConfigError, match=r"other does not vouch for it; its author states it in Plugin\.assures"):
        StepRuntime(config=config, plugins={"other": Silent(NoSettings())})
    config = merged_stage(config, "other")
    StepRuntime(config=config, plugins={"other": Vouching(NoSettings())})


def merged_stage(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {**config, "stages": {**config["stages"], "sensitive_data_scan": {"use": "presidio"}}}


class Wrong(Silent):
    def demands(self, wiring: object) -> Any:
        raise RuntimeError("no idea")


def test_a_plugin_that_fails_to_say_what_it_needs_is_named() -> None:
    with pytest.raises(PluginError, match="demands failed: odd raised RuntimeError: no idea"):
        StepRuntime(config={"stages": {"identity_verification": "odd"}}, plugins={"odd": Wrong(NoSettings())})


def test_a_profile_on_trial_in_shadow_demands_nothing_and_denies_nothing(world: World) -> None:
    StepRuntime(config={"profiles": ["hipaa"], "stages": {"compliance_profile": {"mode": "shadow"}}})


def test_a_profile_whose_stage_is_disabled_is_refused() -> None:
    with pytest.raises(ConfigError, match="no plugin in use reads this section"):
        StepRuntime(config={"profiles": ["hipaa"], "stages": {"compliance_profile": {"mode": "disabled"}}})


def test_a_tenant_may_have_a_profile_of_its_own(world: World) -> None:
    tenants = {"clinic": {"profiles": ["hipaa"]}}
    runtime = StepRuntime(config=world.config(tenants=tenants))
    own = [slot.provider.name for slot in runtime.stages("clinic")[5].slots]
    assert own == ["compliance", "rego", "compliance@clinic"]
    path = world.write(world.config(tenants=tenants, plugins=None, ledger={"retention": [{"keep": "1d"}]}))
    message = refused(path)
    assert "plugins.identity.keys: hipaa requires verified_identity" in message
    assert "asked for by tenants.clinic.profiles[0]" in message
    assert "ledger.retention[0]: hipaa keeps records for at least 2192 days" in message


def test_a_tenants_profile_binds_that_tenant_alone(world: World) -> None:
    async def codes() -> list[str]:
        async with StepRuntime(config=world.config(tenants={"clinic": {"profiles": ["hipaa"]}})) as runtime:
            roleless = {"roles": []}
            first = await world.act(runtime, roleless)
            second = await world.act(runtime, {**roleless, "tenant": "school"}, run_id="run-2")
            return [first.code, second.code]

    import asyncio

    assert asyncio.run(codes()) == ["compliance_profile.denied", ""]


async def test_a_reload_that_no_longer_meets_the_needs_leaves_the_old_pipeline(world: World) -> None:
    async with StepRuntime(config=world.config("hipaa")) as runtime:
        before = runtime.fingerprint
        with pytest.raises(ConfigError, match="hipaa requires"):
            await runtime.reload(world.config("hipaa", tools={"approval_from": "never"}))
        assert runtime.fingerprint == before
        assert (await world.act(runtime, {})).ok
