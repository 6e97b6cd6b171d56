"""From the file's raw settings to a plugin's own, with every mistake by line."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import ConfigDict, Field, field_validator

from meshflow.config import Config, check_sections, parse_config, plugin_settings, unknown_plugin_settings
from meshflow.errors import ConfigError, PluginError
from meshflow.plugin import NoSettings, Plugin, Settings


class Strength(Enum):
    LOW = "low"
    HIGH = "high"


class Rule(Settings):
    name: str
    above: int = 0


class Embedded(Settings):
    kind: Literal["embedded"] = "embedded"
    memory_mb: int = 64


class Server(Settings):
    kind: Literal["server"]
    url: str


class RegoSettings(Settings):
    bundle: str = "policies"
    engine: Annotated[Embedded | Server, Field(discriminator="kind")] = Embedded()
    rules: tuple[Rule, ...] = ()
    by_tool: dict[str, Rule] = Field(default_factory=dict)
    strength: Strength = Strength.LOW
    size: int | list[int] = 1


class RegoPlugin(Plugin[RegoSettings]):
    settings_type = RegoSettings


class LedgerSettings(Settings):
    path: str = "default.db"
    batch: int = 1


class LedgerPlugin(Plugin[LedgerSettings]):
    settings_type = LedgerSettings
    section = "ledger"


class ProfilesSettings(Settings):
    profiles: tuple[str, ...] = ()


class CompliancePlugin(Plugin[ProfilesSettings]):
    settings_type = ProfilesSettings
    section = "profiles"


class CollectorSettings(Settings):
    shorthand: ClassVar[str] = "url"
    url: str = ""
    path: str = ""


class CollectorPlugin(Plugin[CollectorSettings]):
    settings_type = CollectorSettings
    section = "telemetry"


class RiskSettings(Settings):
    model_config = ConfigDict(populate_by_name=True)
    tools: dict[str, str] = Field(default_factory=dict)
    verbs: dict[str, str] = Field(default_factory=dict)
    form: str = Field("", alias="schema")


class RiskPlugin(Plugin[RiskSettings]):
    settings_type = RiskSettings
    section = "tools"


class ToolsSettings(Settings):
    tools: dict[str, str] = Field(default_factory=dict)
    strict: bool = False
    owner: str = Field(...)


class ToolsPlugin(Plugin[ToolsSettings]):
    settings_type = ToolsSettings
    section = "tools"


class OpenSettings(Settings):
    model_config = ConfigDict(extra="allow")


class OpenPlugin(Plugin[OpenSettings]):
    settings_type = OpenSettings
    section = "telemetry"


def load(text: str) -> Config:
    return parse_config(text, base=Path(), environ={})


def refused(text: str, name: str, plugin: type[Plugin[Any]], tenant: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plugin_settings(load(text), name, plugin, tenant=tenant)
    return str(caught.value).splitlines()


def test_a_misspelt_setting_names_line_path_and_what_was_meant() -> None:
    text = "\n" * 12 + "plugins: {rego: {\nbundel: x}}"
    assert refused(text, "rego", RegoPlugin) == [
        "meshflow.yaml:14: plugins.rego.bundel: unknown setting (did you mean bundle?)"
    ]


def test_settings_that_are_not_set_are_defaults() -> None:
    for text in ("", "plugins:", "plugins:\n  rego:", "plugins: {rego: {}}"):
        assert plugin_settings(load(text), "rego", RegoPlugin) == RegoSettings()
    assert plugin_settings(load(""), "x", Plugin) == NoSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "engine: {kind: embedded, memory: 1}",
            "plugins.rego.engine.memory: unknown setting (did you mean memory_mb?)",
        ),
        ("engine: {kind: server}", "plugins.rego.engine.url: is required and not set"),
        ("engine: {kind: servr}", "plugins.rego.engine: tag 'servr' found using 'kind' does not match"),
        ("rules: [{name: a, abov: 1}]", "plugins.rego.rules[0].abov: unknown setting (did you mean above?)"),
        ("rules: [{}]", "plugins.rego.rules[0].name: is required and not set"),
        ("by_tool: {pay: {nme: 1}}", "plugins.rego.by_tool.pay.nme: unknown setting (did you mean name?)"),
        ("by_tool: {'a b': {name: 1}}", "plugins.rego.by_tool.'a b'.name: should be text, not 1"),
        ("bundle: no", "plugins.rego.bundle: should be text, not false (YAML reads off, no and false as false"),
        ("bundle: [a]", "plugins.rego.bundle: should be text, not a list"),
        ("bundle: {a: 1}", "plugins.rego.bundle: should be text, not a mapping"),
        ("bundle: ", "plugins.rego.bundle: should be text, not null"),
        ("strength: hihg", "plugins.rego.strength: should be 'low' or 'high', not 'hihg' (did you mean high?)"),
        ("rules: [{name: a, above: x}]", "plugins.rego.rules[0].above: should be a whole number"),
        ("zzz: 1", "plugins.rego.zzz: unknown setting (there are bundle, by_tool, engine, rules, size, strength)"),
        ("rules: x", "plugins.rego.rules: should be a list, not text"),
    ],
)
def test_each_kind_of_mistake_has_its_sentence(text: str, message: str) -> None:
    lines = refused(f"plugins:\n  rego:\n    {text}", "rego", RegoPlugin)
    assert any(line.startswith(f"meshflow.yaml:3: {message}") for line in lines), lines


def test_the_labels_of_unions_do_not_show_in_paths() -> None:
    lines = refused("plugins:\n  rego:\n    size: [a]\n", "rego", RegoPlugin)
    assert [line.split(": ")[1] for line in lines] == ["plugins.rego.size", "plugins.rego.size[0]"]


def test_a_text_of_secrets_is_not_repeated() -> None:
    lines = refused("plugins: {rego: {size: hunter2, rules: hunter2, by_tool: hunter2}}", "rego", RegoPlugin)
    assert "hunter2" not in "".join(lines)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        plugin_settings(load("plugins:\n rego:\n  bundle: 1\n  rules: 2\n  x: 3\n"), "rego", RegoPlugin)
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["3", "4", "5"]
    assert (caught.value.where, caught.value.path) == ("meshflow.yaml:3", "plugins.rego.bundle")


def test_a_section_and_the_plugins_settings_are_merged() -> None:
    settings = plugin_settings(load("ledger: {path: a.db}\nplugins: {ledger: {batch: 3}}"), "ledger", LedgerPlugin)
    assert settings == LedgerSettings(path="a.db", batch=3)


def test_the_same_key_in_both_names_both_lines() -> None:
    text = "ledger:\n  path: a.db\nplugins:\n  ledger:\n    path: b.db\n"
    assert refused(text, "ledger", LedgerPlugin) == [
        "meshflow.yaml:5: plugins.ledger.path: is set by ledger.path (meshflow.yaml:2) too; keep one"
    ]
    assert refused("ledger: a.db\nplugins: {ledger: {path: b.db}}", "ledger", LedgerPlugin) == [
        "meshflow.yaml:2: plugins.ledger.path: is set by ledger (meshflow.yaml:1) too; keep one"
    ]


def test_a_value_stands_for_the_field_that_the_settings_name() -> None:
    assert plugin_settings(load("ledger: a.db"), "ledger", LedgerPlugin) == LedgerSettings(path="a.db")
    settings = plugin_settings(load("profiles: [soc2, gdpr]"), "compliance", CompliancePlugin)
    assert settings == ProfilesSettings(profiles=("soc2", "gdpr"))
    settings = plugin_settings(load("telemetry: http://x"), "collector", CollectorPlugin)
    assert settings == CollectorSettings(url="http://x")
    assert refused("\nledger: [a]", "ledger", LedgerPlugin) == ["meshflow.yaml:2: ledger: should be text, not a list"]
    assert refused("profiles: [a, 1]", "compliance", CompliancePlugin) == [
        "meshflow.yaml:1: profiles[1]: should be text, not 1"
    ]


def test_of_a_shared_section_each_plugin_takes_its_own() -> None:
    config = load("tools: {tools: {pay: high}, verbs: {pay: high}, strict: true, owner: me, schema: s}")
    assert plugin_settings(config, "risk", RiskPlugin) == RiskSettings(
        tools={"pay": "high"}, verbs={"pay": "high"}, form="s"
    )
    assert plugin_settings(config, "tools", ToolsPlugin) == ToolsSettings(
        tools={"pay": "high"}, strict=True, owner="me"
    )
    check_sections(config, {"risk": RiskPlugin, "tools": ToolsPlugin})


def test_a_key_that_no_plugin_takes_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        check_sections(
            load("tools:\n  vrbs: {}\nprofiles: {x: 1}\ntenants: {acme: {tools: {stict: true}}}"),
            {"risk": RiskPlugin, "tools": ToolsPlugin, "compliance": CompliancePlugin},
        )
    assert str(caught.value).splitlines() == [
        "meshflow.yaml:2: tools.vrbs: unknown setting (did you mean verbs?)",
        "meshflow.yaml:3: profiles.x: unknown setting (there are profiles)",
        "meshflow.yaml:4: tenants.acme.tools.stict: unknown setting (did you mean strict?)",
    ]


def test_a_section_needs_a_plugin_that_reads_it_in_its_shape() -> None:
    with pytest.raises(ConfigError, match=r"^meshflow.yaml:1: limits: no plugin in use reads this section$"):
        check_sections(load("limits: {a: 1}"), {"risk": RiskPlugin})
    with pytest.raises(ConfigError, match=r"^meshflow.yaml:1: telemetry: should be a mapping$"):
        check_sections(load("telemetry: a"), {"open": OpenPlugin})
    check_sections(load("telemetry: {anything: 1}"), {"open": OpenPlugin})
    assert plugin_settings(load("telemetry: {a: 1}"), "open", OpenPlugin).model_extra == {"a": 1}


def test_a_plugin_with_an_unknown_section_is_its_authors_fault() -> None:
    class Lost(Plugin[NoSettings]):
        section = "limit"

    with pytest.raises(PluginError, match="plugin lost: section 'limit' is none of ledger, limits, profiles"):
        check_sections(load(""), {"lost": Lost})


def test_a_missing_setting_points_to_where_the_rest_stands() -> None:
    assert refused("a: 1".replace("a: 1", "tools:\n  strict: true"), "tools", ToolsPlugin) == [
        "meshflow.yaml:1: tools.owner: is required and not set"
    ]
    assert refused("plugins:\n  tools: {strict: true}", "tools", ToolsPlugin) == [
        "meshflow.yaml:2: plugins.tools.owner: is required and not set"
    ]
    assert refused("", "tools", ToolsPlugin) == ["meshflow.yaml: plugins.tools.owner: is required and not set"]


TENANT = """\
ledger: {batch: 2}
plugins:
  rego: {bundle: base, rules: [{name: a}]}
tenants:
  acme:
    plugins:
      rego:
        bundle: acme
        rules: [{name: b, abov: 1}]
"""


def test_a_tenants_settings_lie_over_the_bases_and_keep_their_own_lines() -> None:
    assert refused(TENANT, "rego", RegoPlugin, "acme") == [
        "meshflow.yaml:9: tenants.acme.plugins.rego.rules[0].abov: unknown setting (did you mean above?)"
    ]
    config = load(TENANT.replace("abov", "above"))
    assert plugin_settings(config, "rego", RegoPlugin, tenant="acme") == RegoSettings(
        bundle="acme", rules=(Rule(name="b", above=1),)
    )
    assert plugin_settings(config, "rego", RegoPlugin) == RegoSettings(bundle="base", rules=(Rule(name="a"),))
    assert plugin_settings(config, "rego", RegoPlugin, tenant="b") == plugin_settings(config, "rego", RegoPlugin)


def test_what_a_tenant_sets_in_the_other_place_is_found() -> None:
    text = "plugins:\n  compliance: {profiles: [a]}\ntenants:\n  acme:\n    profiles: [b]\n"
    assert refused(text, "compliance", CompliancePlugin, "acme") == [
        "meshflow.yaml:2: plugins.compliance.profiles: is set by tenants.acme.profiles (meshflow.yaml:5) too; keep one"
    ]


def test_settings_do_not_share_values_with_the_configuration() -> None:
    config = load("plugins: {rego: {size: [1]}}")
    first = plugin_settings(config, "rego", RegoPlugin)
    assert isinstance(first, RegoSettings)
    assert isinstance(first.size, list)
    first.size.append(2)
    assert config.plugins["rego"] == {"size": [1]}
    assert plugin_settings(config, "rego", RegoPlugin) == RegoSettings(size=[1])


class FaultySettings(Settings):
    key: str = ""

    @field_validator("key")
    @classmethod
    def _fail(cls, value: str) -> str:
        raise KeyError(value)


class FaultyPlugin(Plugin[FaultySettings]):
    settings_type = FaultySettings


def test_a_validator_that_crashes_is_the_plugin_authors_fault() -> None:
    with pytest.raises(PluginError) as caught:
        plugin_settings(load("plugins: {faulty: {key: hunter2}}"), "faulty", FaultyPlugin)
    assert "plugin faulty: its settings type raised KeyError at " in str(caught.value)
    assert "test_config_settings.py:" in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value.__context__)


def test_settings_of_a_plugin_that_is_not_installed_are_refused() -> None:
    text = "plugins:\n  reog: {}\n  zzz: {}\ntenants:\n  acme:\n    plugins: {presido: {}}\n"
    with pytest.raises(ConfigError) as caught:
        unknown_plugin_settings(load(text), ["rego", "presidio"])
    assert str(caught.value).splitlines() == [
        "meshflow.yaml:2: plugins.reog: no plugin of this name is installed (did you mean rego?)",
        "meshflow.yaml:3: plugins.zzz: no plugin of this name is installed",
        "meshflow.yaml:6: tenants.acme.plugins.presido: no plugin of this name is installed (did you mean presidio?)",
    ]
    unknown_plugin_settings(load("plugins: {rego: {}}"), {"rego"})


def test_a_near_miss_in_allow_or_disable_is_refused_and_a_stranger_is_not() -> None:
    unknown_plugin_settings(load("plugins: {allow: [rego, opa], disable: [something_else]}"), ["rego", "presidio"])
    for key in ("allow", "disable"):
        with pytest.raises(ConfigError) as caught:
            unknown_plugin_settings(load(f"plugins: {{{key}: [presido]}}"), ["rego", "presidio"])
        assert str(caught.value) == (
            f"meshflow.yaml:1: plugins.{key}: no plugin 'presido' is installed (did you mean presidio?)"
        )
