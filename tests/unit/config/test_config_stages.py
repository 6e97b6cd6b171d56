"""What may be said of each of the fifteen stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshflow.config import Config, StageConfig, config_from_mapping, parse_config
from meshflow.errors import ConfigError
from meshflow.stages import STAGES, Combine


def stage(text: str, name: str = "policy_evaluation") -> StageConfig:
    return parse_config(f"stages:\n  {name}: {text}", base=Path(), environ={}).stages[name]


def refused(text: str, name: str = "policy_evaluation") -> str:
    with pytest.raises(ConfigError) as caught:
        stage(text, name)
    return str(caught.value).removeprefix(f"meshflow.yaml:2: stages.{name}")


def test_a_name_and_a_list_stand_for_use() -> None:
    assert stage("rego") == stage("[rego]") == stage("{use: rego}") == stage("{use: [rego]}")
    assert stage("[rego, cedar]").use == ("rego", "cedar")


def test_a_stage_with_nothing_set_is_enforced_by_its_default() -> None:
    for text in ("", "{}", "{use: }", "{mode: , timeout_ms: ~}"):
        assert stage(text) == StageConfig(use=None, also_shadow=(), mode="enforce", timeout_ms=None, unsafe=False)


def test_all_of_a_stage_can_be_set() -> None:
    config = stage("{use: [a], also_shadow: b, mode: disabled, timeout_ms: 50, unsafe: true}")
    assert config == StageConfig(use=("a",), also_shadow=("b",), mode="disabled", timeout_ms=50, unsafe=True)


HINT = "(YAML reads off, no and false as false, and on, yes and true as true; quote the word)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("off", f": should be a plugin's name, a list of names, or a mapping {HINT}"),
        ("{mode: off}", f".mode: should be 'enforce', 'shadow' or 'disabled', not false {HINT}"),
        ("{mode: on}", f".mode: should be 'enforce', 'shadow' or 'disabled', not true {HINT}"),
        ("{mode: shadwo}", ".mode: should be 'enforce', 'shadow' or 'disabled', not 'shadwo' (did you mean shadow?)"),
        ("{use: no}", f".use: should be a plugin's name or a list of names {HINT}"),
        ("{use: [no]}", f".use[0]: should be text, not false {HINT}"),
        ("{use: [1]}", ".use[0]: should be text, not 1"),
        ("5", ": should be a mapping, not 5"),
        ("[]", ": is an empty list, which would leave nothing; name a plugin, or leave the setting out"),
        ("{use: []}", ".use: is an empty list, which would leave nothing; name a plugin, or leave the setting out"),
        ("[a, a]", ": names a plugin twice"),
        ("['']", ": holds an empty name"),
        ("{use: {a: b}}", ".use: should be a list, not a mapping"),
        ("{timeout_ms: 0}", ".timeout_ms: should be greater than 0, not 0"),
        ("{timeout_ms: 1.5}", ".timeout_ms: should be a whole number"),
        ("{timeout_ms: yes}", ".timeout_ms: should be a whole number, not true"),
        ("{timout_ms: 1}", ".timout_ms: unknown setting (did you mean timeout_ms?)"),
        ("{unsafe: 7}", ".unsafe: should be true or false"),
        ("{use: [a], also_shadow: [a]}", ".also_shadow: 'a' stands in use too; a plugin is enforced or in shadow"),
        ("{use: [allow]}", ".use: allow is a reserved word under plugins, not a plugin"),
    ],
)
def test_a_wrong_stage_says_what_is_wrong(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_an_unknown_stage_names_the_one_that_was_meant() -> None:
    assert refused("x", "policy_evalution") == ": unknown stage (did you mean policy_evaluation?)"
    assert refused("x", "zzz").startswith(": unknown stage (there are audit_ledger, budget_check, ")


@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
def test_each_stage_takes_shadow_disabling_and_lists_as_its_row_says(name: str) -> None:
    row = next(stage for stage in STAGES if stage.name == name)

    def accepts(value: object) -> bool:
        try:
            config_from_mapping({"stages": {name: value}})
        except ConfigError as error:
            refusals.append(error.path)
        else:
            return True
        return False

    refusals: list[str] = []
    assert accepts({"mode": "shadow"}) is row.shadowable
    assert accepts({"also_shadow": ["a"]}) is not row.never_shadow
    assert accepts({"mode": "disabled"}) is not row.protected
    assert accepts({"mode": "disabled", "unsafe": True})
    assert accepts(["a", "b"]) is (row.combine is not Combine.EXACTLY_ONE)
    assert accepts(["a"])
    assert accepts({"timeout_ms": 10})
    assert all(path.startswith(f"stages.{name}.") for path in refusals)


def test_the_messages_for_stages_that_cannot_do_what_is_asked() -> None:
    assert refused("{mode: shadow}", "risk_classification") == (
        ".mode: risk_classification cannot run in shadow: later stages need its answer; use also_shadow"
    )
    assert refused("{mode: shadow}", "audit_ledger") == ".mode: audit_ledger cannot run in shadow: remove mode"
    assert refused("{also_shadow: x}", "execution") == (
        ".also_shadow: execution has effects and cannot run in shadow; remove also_shadow"
    )
    assert refused("{mode: disabled}") == (
        ".mode: policy_evaluation protects every step; disabling it also needs unsafe: true"
    )
    assert refused("[a, b]", "execution") == ".use: execution takes exactly one provider, not 2"


def load(text: str) -> Config:
    return parse_config(text, base=Path(), environ={})


def test_a_provider_must_not_be_disabled() -> None:
    with pytest.raises(ConfigError, match=r":2: stages.sla_record.use: plugin 'x' is listed in plugins.disable"):
        load("plugins: {disable: [x]}\nstages: {sla_record: x}")
    with pytest.raises(ConfigError, match=r"stages.sla_record.also_shadow: plugin 'x' is listed in plugins.disable"):
        load("plugins: {disable: [x]}\nstages: {sla_record: {also_shadow: x}}")
    load("plugins: {disable: [y]}\nstages: {sla_record: x}")


def test_configuration_is_frozen_and_its_repr_shows_no_settings() -> None:
    config = load("plugins: {identity: {key: hunter2}}\nledger: hunter2\nstages: {sla_record: x}")
    with pytest.raises(AttributeError):
        config.allow = ("x",)  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.plugins["x"] = {}  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        setattr(config.stages["sla_record"], "mode", "shadow")  # noqa: B010 - mypy would stop the plain form
    assert "hunter2" not in repr(config)
