"""What a tenant may set, and how its settings lie over the base's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshflow.config import Config, parse_config
from meshflow.errors import ConfigError, ContractError
from meshflow.stages import STAGES

BASE = """\
stages:
  input_guardrails: [guardrails]
  sla_record: {mode: disabled}
plugins:
  guardrails:
    deny: [a]
    length: {most: 10, least: 1}
profiles: [soc2]
limits:
  rates: {per_minute: 60}
tenants:
  acme:
    stages:
      input_guardrails: acme_guard
    plugins:
      guardrails:
        length: {most: 5}
      acme_guard: {x: 1}
    profiles: [hipaa, soc2]
    limits:
      rates: {per_minute: 6}
  other:
"""


def load(text: str) -> Config:
    return parse_config(text, base=Path(), environ={})


def tenant(text: str, before: str = "") -> Config:
    return load(f"{before}tenants:\n  acme:\n    {text}\n")


def refused(text: str, before: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        tenant(text, before)
    return str(caught.value).split(": tenants.acme", 1)[1]


def test_a_tenants_entry_alone_is_what_it_sets() -> None:
    own = load(BASE).for_tenant("acme")
    assert own.tenant == "acme"
    assert own.stages["input_guardrails"].use == ("acme_guard",)
    assert list(own.stages) == ["input_guardrails"]
    assert own.plugins == {"guardrails": {"length": {"most": 5}}, "acme_guard": {"x": 1}}
    assert own.sections == {"profiles": ["hipaa", "soc2"], "limits": {"rates": {"per_minute": 6}}}
    assert own.where(("stages", "input_guardrails", "use")) == "meshflow.yaml:14"
    assert own.where(("plugins", "acme_guard", "x")) == "meshflow.yaml:18"
    assert own.where(("limits",)) == "meshflow.yaml:20"


def test_the_merged_view_lays_the_tenants_settings_over_the_bases() -> None:
    config = load(BASE)
    merged = config.merged_with("acme")
    assert merged.plugins == {
        "guardrails": {"deny": ["a"], "length": {"most": 5, "least": 1}}, "acme_guard": {"x": 1},
    }  # fmt: skip
    assert merged.sections == {"profiles": ["soc2", "hipaa"], "limits": {"rates": {"per_minute": 6}}}
    assert merged.stages == config.stages
    assert merged.where(("plugins", "guardrails", "length", "most")) == "meshflow.yaml:17"
    assert merged.where(("plugins", "guardrails", "length", "least")) == "meshflow.yaml:7"
    assert merged.where(("plugins", "acme_guard")) == "meshflow.yaml:18"
    assert merged.where(("profiles", 1)) == "meshflow.yaml:19"
    assert config.plugins["guardrails"] == {"deny": ["a"], "length": {"most": 10, "least": 1}}


@pytest.mark.parametrize("tenant_id", ["other", "unheard-of"])
def test_a_tenant_that_sets_nothing_has_the_bases_settings(tenant_id: str) -> None:
    config = load(BASE)
    own, merged = config.for_tenant(tenant_id), config.merged_with(tenant_id)
    assert (own.stages, own.plugins, own.sections, own.tenant) == ({}, {}, {}, tenant_id)
    assert (merged.plugins, merged.sections, merged.tenant) == (config.plugins, config.sections, tenant_id)


def test_a_view_of_one_tenant_gives_nothing_of_another() -> None:
    config = load(BASE)
    for view in (config.for_tenant("acme"), config.merged_with("acme")):
        assert view.tenants == {}
        with pytest.raises(ContractError):
            view.for_tenant("other")
        with pytest.raises(ContractError):
            view.merged_with("other")


@pytest.mark.parametrize("mode", ["shadow", "disabled"])
@pytest.mark.parametrize("name", [stage.name for stage in STAGES[2:]])
def test_a_tenant_cannot_weaken_a_stage(name: str, mode: str) -> None:
    assert refused(f"stages: {{{name}: {{mode: {mode}}}}}") == (
        f".stages.{name}.mode: a tenant may only tighten what the base enforces; {mode} is for the base's stages alone"
    )


@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
def test_a_tenant_may_use_a_provider_of_its_own_where_the_stage_permits_it(name: str) -> None:
    stage = next(stage for stage in STAGES if stage.name == name)
    if stage.tenant_may_extend:
        assert tenant(f"stages: {{{name}: mine}}").for_tenant("acme").stages[name].use == ("mine",)
    elif stage.number <= 2:
        assert "runs before the tenant is known; set it for all under stages" in refused(f"stages: {{{name}: mine}}")
    else:
        assert refused(f"stages: {{{name}: mine}}") == (
            f".stages.{name}.use: a tenant may only tighten what the base enforces; "
            f"{name} has one answer for all tenants"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {sla_record: {unsafe: true}}", ".stages.sla_record.unsafe: a tenant may only tighten"),
        (
            "stages: {execution: {also_shadow: x}}",
            ".stages.execution.also_shadow: execution has effects and cannot run",
        ),
        ("stages: {sla_recrod: x}", ".stages.sla_recrod: unknown stage (did you mean sla_record?)"),
        ("stages: {sla_record: {use: x, mdoe: a}}", ".stages.sla_record.mdoe: unknown setting (did you mean mode?)"),
        ("plugins: {allow: [x]}", ".plugins.allow: belongs to the top level's plugins, not to a tenant's"),
        ("plugins: {disable: [x]}", ".plugins.disable: belongs to the top level's plugins, not to a tenant's"),
        ("ledger: x", ".ledger: unknown setting (there are limits, plugins, profiles, stages, tools)"),
    ],
)
def test_what_a_tenant_may_not_say(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_a_tenant_uses_only_allowed_plugins() -> None:
    message = refused("stages: {sla_record: x}", "plugins: {disable: [x]}\n")
    assert message == ".stages.sla_record.use: plugin 'x' is listed in plugins.disable"


def test_enforcing_for_one_tenant_what_the_base_does_not_needs_a_name() -> None:
    base = "stages: {sla_record: {mode: disabled}}\n"
    assert refused("stages: {sla_record: {mode: enforce}}", base) == (
        ".stages.sla_record.mode: the base has sla_record in mode disabled; "
        "name what the tenant is to have enforced with use"
    )
    tenant("stages: {sla_record: {mode: enforce, use: x}}", base)


def test_a_section_of_another_shape_than_the_bases_would_replace_it_and_is_refused() -> None:
    assert refused("profiles: [hipaa]", "profiles: {packs: [soc2]}\n") == (
        ".profiles: should be a mapping, as the base's profiles is, to be laid over it"
    )
    assert refused("limits: {a: 1}", "limits: [1]\n") == (
        ".limits: should be a list or a single value, as the base's limits is, to be laid over it"
    )


@pytest.mark.parametrize("name", ["", "-a", ".", "a/b", "a b", "ä", "a" * 65, "a\n"])
def test_a_tenant_id_is_a_plain_word(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"tenants: {{{json.dumps(name)}: {{}}}}")
    assert "a tenant id is 1 to 64 letters, digits, dots, dashes or underscores" in str(caught.value)
    assert str(caught.value).startswith("meshflow.yaml:")


@pytest.mark.parametrize("name", ["a", "0", "Acme-EU.1_x", "a" * 64])
def test_plain_words_are_tenant_ids(name: str) -> None:
    assert list(load(f'tenants: {{"{name}": {{}}}}').tenants) == [name]
