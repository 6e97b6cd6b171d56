"""Environment variables in values, and that what they hold stays out of messages."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, field_validator, model_validator

from meshflow.config import Config, parse_config, plugin_settings
from meshflow.errors import ConfigError
from meshflow.plugin import Plugin, Settings

SECRET = "sk-live-0123456789"


def ledger(value: str, environ: Mapping[str, str]) -> Any:
    return parse_config(f"ledger: {value}", base=Path(), environ=environ).sections["ledger"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${A}", "one"),
        ("'${A}'", "one"),
        ("x${A}-${B}y", "xone-twoy"),
        ("${NONE:-default}", "default"),
        ("${NONE:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-full}", "full"),
        ("${A:-default}", "one"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ {A}", "$A $ {A}"),
        ("${NESTED}", "${A}"),
        ("${NUMBER}", "8080"),
        ("${WORD}", "off"),
    ],
)
def test_references_are_replaced_in_values(value: str, expected: str) -> None:
    environ = {"A": "one", "B": "two", "EMPTY": "", "NESTED": "${A}", "NUMBER": "8080", "WORD": "off"}
    assert ledger(value, environ) == expected


@pytest.mark.parametrize("value", ["${", "${}", "${A", "${1A}", "${A-b}", "${A:b}", "${ A }", "${A:-${B}}", "x ${A!r}"])
def test_what_is_not_a_reference_is_refused(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ledger(f'"{value}"', {"A": "one"})
    assert str(caught.value) == (
        "meshflow.yaml:1: ledger: '${' must open ${NAME} or ${NAME:-default}; write $${ for the characters themselves"
    )


def test_every_missing_variable_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("ledger: ${ONE}\nlimits:\n  a: [x, '${TWO}']\n", base=Path(), environ={})
    assert str(caught.value).splitlines() == [
        "meshflow.yaml:1: ledger: environment variable ONE is not set; set it, or write ${ONE:-default} to give a "
        "default",
        "meshflow.yaml:3: limits.a[1]: environment variable TWO is not set; set it, or write ${TWO:-default} to give a "
        "default",
    ]


def test_keys_are_not_interpolated() -> None:
    config = parse_config("limits: {'${A}': 1}", base=Path(), environ={"A": "x"})
    assert config.sections["limits"] == {"${A}": 1}


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHFLOW_TEST_LEDGER", "runs.db")
    config = parse_config("ledger: ${MESHFLOW_TEST_LEDGER}", base=Path())
    assert config.sections["ledger"] == "runs.db"


def test_numbers_and_modes_may_come_from_the_environment() -> None:
    text = "version: ${V}\napprovals:\n  expires_s: ${S}\nstages:\n  sla_record:\n    mode: ${M}\n    unsafe: ${U}\n"
    config = parse_config(text, base=Path(), environ={"V": "1", "S": "60", "M": "shadow", "U": "false"})
    assert (config.approvals.expires_s, config.stages["sla_record"].mode) == (60, "shadow")


def test_a_variable_cannot_bring_in_a_flood_or_a_surrogate() -> None:
    with pytest.raises(ConfigError, match="grows past 1048576 characters"):
        ledger("${A}" * 20, {"A": "x" * 100_000})
    with pytest.raises(ConfigError, match="values from the environment come to more than 1048576 characters"):
        parse_config("limits:\n" + "- ${A}\n" * 20, base=Path(), environ={"A": "x" * 100_000})
    with pytest.raises(ConfigError, match="ledger: holds half of a surrogate pair") as caught:
        ledger("${A}", {"A": f"{SECRET}\udc80"})
    assert SECRET not in str(caught.value)


class KeySettings(Settings):
    port: int = 1
    kind: str = Field("a", pattern="^a$")
    key: str = ""
    keys: tuple[str, ...] = ()
    together: bool = False

    @field_validator("key")
    @classmethod
    def _quote(cls, value: str) -> str:
        if value.startswith("sk-"):
            raise ValueError(f"no key may begin like {value[:5]}")
        return value

    @model_validator(mode="after")
    def _quote_all(self) -> KeySettings:
        if self.together:
            raise ValueError(f"got {self.keys[0]}")
        if self.keys == ("plain",):
            raise ValueError("keys need a port")
        return self


class KeyPlugin(Plugin[KeySettings]):
    settings_type = KeySettings


def configure(text: str) -> Config:
    return parse_config(f"plugins:\n  vault:\n    {text}\n", base=Path(), environ={"KEY": SECRET, "P": "plain"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: ${KEY}", "plugins.vault.port: value from ${KEY} should be a whole number"),
        ("port: x${KEY}-${P}", "plugins.vault.port: value from ${KEY} and ${P} should be a whole number"),
        ("kind: ${KEY}", "plugins.vault.kind: value from ${KEY} should match pattern '^a$'"),
        ("key: ${KEY}", "plugins.vault.key: value from ${KEY} is not accepted"),
        ("{together: true, keys: ['${KEY}']}", "plugins.vault: is not accepted (with values from ${KEY})"),
        ("keys: ['${P}']", "plugins.vault: keys need a port (with values from ${P})"),
        ("prot: ${KEY}", "plugins.vault.prot: unknown setting (did you mean port?)"),
    ],
)
def test_what_came_from_the_environment_is_named_and_never_shown(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plugin_settings(configure(text), "vault", KeyPlugin)
    assert str(caught.value).split(": ", 1)[1] == message
    everything = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    assert SECRET not in everything
    assert SECRET[:8] not in str(caught.value)


def test_a_wrong_mode_from_the_environment_is_not_shown() -> None:
    text = "stages:\n  sla_record:\n    mode: ${KEY}\n    use: ['${KEY}', '${KEY}']\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, base=Path(), environ={"KEY": SECRET})
    assert "stages.sla_record.use: names a plugin twice (with values from ${KEY})" in str(caught.value)
    assert "stages.sla_record.mode: value from ${KEY} should be 'enforce', 'shadow' or 'disabled'" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_plugin_name_from_the_environment_is_not_shown() -> None:
    text = "plugins:\n  disable: [sk-live-0123456789]\nstages:\n  sla_record: ${KEY}\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, base=Path(), environ={"KEY": SECRET})
    assert "stages.sla_record.use: plugin from the environment is listed in plugins.disable" in str(caught.value)
    assert SECRET not in str(caught.value)
