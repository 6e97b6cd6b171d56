"""Reading meshflow.yaml: what is refused, and how the message says where."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from meshflow.config import Config, config_from_mapping, load_config, parse_config
from meshflow.errors import ConfigError


def parse(text: str) -> Config:
    return parse_config(text, base=Path(), environ={})


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "null", "---\n", "{}", "version: 1", "stages:\ntenants:\nlimits:\n"]
)
def test_a_file_that_sets_nothing_is_the_empty_configuration(text: str) -> None:
    config = parse(text)
    assert (config.version, dict(config.stages), dict(config.plugins), dict(config.sections)) == (1, {}, {}, {})
    assert config.allow is None
    assert config.disable == ()
    assert config.approvals.expires_s == 86_400


def test_the_empty_configuration_needs_no_file() -> None:
    assert Config.empty().stages == {}
    assert Config.empty().where(("stages",)) == "configuration"


def test_everything_that_is_set_is_there() -> None:
    config = parse(
        "version: 1\n"
        "ledger: runs.db\n"
        "stages: {policy_evaluation: rego}\n"
        "plugins:\n  allow: [rego, cedar]\n  disable: presidio\n  rego: {bundle: policies}\n"
        "profiles: [soc2]\nlimits: {rates: []}\ntelemetry: {a: 1.5}\ntools: {b: true}\napprovals: {expires_s: 60}\n"
        "tenants: {acme: {limits: {rates: []}}}\n"
    )
    assert config.stages["policy_evaluation"].use == ("rego",)
    assert (config.allow, config.disable) == (("rego", "cedar"), ("presidio",))
    assert config.plugins == {"rego": {"bundle": "policies"}}
    assert config.sections == {
        "ledger": "runs.db",
        "profiles": ["soc2"],
        "limits": {"rates": []},
        "telemetry": {"a": 1.5},
        "tools": {"b": True},
    }
    assert config.approvals.expires_s == 60
    assert list(config.tenants) == ["acme"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugin: {}", "meshflow.yaml:1: plugin: unknown setting (did you mean plugins?)"),
        ("version: 1\n\nledgr: x", "meshflow.yaml:3: ledgr: unknown setting (did you mean ledger?)"),
        ("version: 2", "meshflow.yaml:1: version: should be 1, not 2"),
        ("version: true", "meshflow.yaml:1: version: should be 1"),
        ("version: 1.0", "meshflow.yaml:1: version: should be 1"),
        ("- a", "meshflow.yaml: should be a mapping with keys such as stages and plugins"),
        ("text", "meshflow.yaml: should be a mapping with keys such as stages and plugins"),
        ("stages: [a]", "meshflow.yaml:1: stages: should be a mapping, not a list"),
        ("plugins: {rego: 3}", "meshflow.yaml:1: plugins.rego: should be a mapping, not 3"),
        (
            "plugins: {alow: [x]}",
            "meshflow.yaml:1: plugins.alow: should be a mapping, not a list (did you mean allow?)",
        ),
        (
            "plugins: {allow: []}",
            "meshflow.yaml:1: plugins.allow: is an empty list, which would leave nothing; name a plugin, or leave the "
            "setting out",
        ),
        (
            "plugins: {allow: [a], disable: [a]}",
            "meshflow.yaml:1: plugins.disable: 'a' stands in plugins.allow too; keep one",
        ),
        ("approvals: {expire_s: 1}", "meshflow.yaml:1: approvals.expire_s: unknown setting (did you mean expires_s?)"),
        ("approvals: {expires_s: 0}", "meshflow.yaml:1: approvals.expires_s: should be greater than 0, not 0"),
        ("approvals: {expires_s: soon}", "meshflow.yaml:1: approvals.expires_s: should be a whole number"),
        ("approvals: {expires_s: true}", "meshflow.yaml:1: approvals.expires_s: should be a whole number, not true"),
    ],
)
def test_a_wrong_setting_says_where_what_and_what_was_meant(text: str, message: str) -> None:
    assert refused(text) == message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("ledger: a\nlimits: {}\nledger: b", 3, "ledger: the key is there twice, first in line 1; keep one"),
        ("limits:\n  a: 1\n  a: 1", 3, "limits.a: the key is there twice, first in line 2; keep one"),
        ("off: 1", 1, "YAML reads the key 'off' as true or false; put it in quotes"),
        ("stages:\n  on: x", 2, "stages: YAML reads the key 'on' as true or false; put it in quotes"),
        ("tenants:\n  no: {}", 2, "tenants: YAML reads the key 'no' as true or false; put it in quotes"),
        ("tenants:\n  7: {}", 2, "tenants: YAML reads the key '7' as a number; put it in quotes"),
        ("~: 1", 1, "YAML reads the key '~' as null; put it in quotes"),
        ("? [a]\n: 1", 1, "a key is one word of text, not a list or a mapping"),
        ('limits: {"\\0": 1}', 1, "limits: key '\\x00' holds a NUL character"),
        ("ledger: !path x", 1, "ledger: tag '!path' is not accepted here; remove it"),
        ("ledger: !!binary aGk=", 1, "ledger: tag 'tag:yaml.org,2002:binary' is not accepted here; remove it"),
        ("limits: !!set {a, b}", 1, "limits: tag 'tag:yaml.org,2002:set' is not accepted; remove it"),
        ("limits: !!python/object:os.system []", 1, "limits: tag 'tag:yaml.org,2002:python/object:os.system' is not"),
        ("ledger: !!bool maybe", 1, "ledger: tag 'tag:yaml.org,2002:bool' is not accepted here; remove it"),
        ("ledger: a\n---\nledger: b", 2, "not valid YAML: a second document starts here, and a file is one document"),
        ("ledger: a\nlimits: [", 2, "not valid YAML: expected the node content"),
        ("stages:\n\tx: 1", 2, "not valid YAML: found character '\\t' that cannot start any token"),
        ("ledger: a\n\x01", 2, "not valid YAML: character 0x1 may not stand here"),
        ('ledger: "\\UFFFFFFFF"', 1, "not valid YAML: an escape or directive holds a number out of range"),
        (f"%YAML 1.{'9' * 5000}\n---\n{{}}", 1, "not valid YAML: an escape or directive holds a number out of range"),
        ("limits: *x", 1, "not valid YAML: found undefined alias 'x'"),
        ("approvals: {expires_s: ${S}}", 1, "inside [ ] and { }, ${NAME} must stand in quotes"),
        ('ledger: "\\uD800"', 1, "ledger: holds half of a surrogate pair, which is not text"),
        ('ledger: "a\\0b"', 1, "ledger: holds a NUL character"),
        ("limits: .nan", 1, "limits: nan is not a number that a setting can have"),
        ("limits: -.inf", 1, "limits: -inf is not a number that a setting can have"),
        ("limits: 1.0e+999", 1, "limits: inf is not a number that a setting can have"),
        (f"limits: {'9' * 9000}", 1, "is not a number that a setting can have"),
        (f"limits: 0x{'f' * 9000}", 1, "limits: a number beyond 64 bits is not a number that a setting can have"),
        ("limits: !!int abc", 1, "limits: 'abc' is not a number that a setting can have"),
        ("limits: 22:22", 1, "limits: '22:22' would be read in base 60 or 8; quote it, or write a plain number"),
        ("limits: 010", 1, "limits: '010' would be read in base 60 or 8; quote it, or write a plain number"),
        ("limits: &a [*a]", 1, "limits[0]: an alias refers to what it is part of"),
        ("limits: &a {b: {c: *a}}", 1, "limits.b.c: an alias refers to what it is part of"),
        ("limits: &a {<<: *a}", 1, "limits: an alias refers to what it is part of"),
        ("limits: {<<: 3}", 1, "limits: << takes an alias of a mapping, or a list of them"),
        ("limits: {<<: {a: 1}, <<: {b: 1}}", 1, "limits.<<: the key is there twice"),
    ],
)  # fmt: skip
def test_what_yaml_allows_and_settings_do_not_is_refused_by_line(text: str, line: int, message: str) -> None:
    text = refused(text)
    assert text.startswith(f"meshflow.yaml:{line}: ")
    assert message.replace("limits.<<", "limits.'<<'") in text


def test_all_wrong_settings_are_named_one_a_line_in_order_of_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("zones: 1\nstages:\n  sla_record: {moed: x, timeout_ms: -1}\napprovals: {expires_s: x}\n")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["meshflow.yaml:1", "zones"],
        ["meshflow.yaml:3", "stages.sla_record.timeout_ms"],
        ["meshflow.yaml:3", "stages.sla_record.moed"],
        ["meshflow.yaml:4", "approvals.expires_s"],
    ]
    assert (caught.value.where, caught.value.path) == ("meshflow.yaml:1", "zones")


def test_a_thousand_wrong_settings_are_summed_up() -> None:
    text = refused("".join(f"wrong{number}: 1\n" for number in range(1_000)))
    assert len(text.splitlines()) == 26
    assert text.endswith("and 975 more")


def test_dates_stay_text_and_plain_numbers_are_numbers() -> None:
    config = parse("limits: {since: 2026-01-02, n: -12, f: -1.5, u: 1_000, x: 0x1F, e: 1.5e+3, y: yes, z: ~, p: 12:99}")
    assert config.sections["limits"] == {
        "since": "2026-01-02",
        "n": -12,
        "f": -1.5,
        "u": 1_000,
        "x": 31,
        "e": 1500.0,
        "y": True,
        "z": None,
        "p": "12:99",
    }


def test_aliases_and_merge_keys_are_expanded_and_keep_their_lines() -> None:
    config = parse("limits: &base\n  a: 1\n  b: 2\ntools:\n  <<: *base\n  b: 3\nprofiles: [*base]\n")
    assert config.sections["tools"] == {"a": 1, "b": 3}
    assert config.sections["profiles"] == [{"a": 1, "b": 2}]
    assert config.where(("tools", "a")) == "meshflow.yaml:2"
    assert config.where(("tools", "b")) == "meshflow.yaml:6"
    assert config.where(("profiles", 0, "b")) == "meshflow.yaml:3"


def test_where_names_the_deepest_place_that_is_known() -> None:
    config = parse("version: 1\nplugins:\n  rego:\n    bundle: x\n")
    assert config.where(("plugins", "rego", "bundle")) == "meshflow.yaml:4"
    assert config.where(("plugins", "rego", "engine")) == "meshflow.yaml:3"
    assert config.where(("plugins", "opa", "url")) == "meshflow.yaml:2"
    assert config.where(("ledger",)) == "meshflow.yaml"


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    ],
    ids=["sequences", "merges"],
)
def test_a_billion_laughs_are_refused_quickly(text: str) -> None:
    started = time.monotonic()
    assert "more than 100000 values once aliases are expanded" in refused(text)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "text", ["limits: " + "[" * 5_000, "- " * 5_000, "{a: " * 5_000, "? " * 5_000, "[" * 66 + "]" * 66]
)
def test_deep_nesting_is_refused_before_the_stack_ends(text: str) -> None:
    assert "more than 64 levels deep" in refused(text)


def test_depth_is_counted_through_aliases() -> None:
    steps = "".join(f"a{n}: &a{n} {{b: {{c: {{d: *a{n - 1}}}}}}}\n" for n in range(1, 40))
    assert "more than 64 levels deep" in refused(f"a0: &a0 {{x: 1}}\n{steps}")


def test_a_hundred_thousand_values_are_too_many() -> None:
    assert "more than 100000 values" in refused("limits: [" + "1," * 100_001 + "]")


def test_text_beyond_a_mebibyte_is_refused() -> None:
    assert refused("#" * 1_048_577) == "meshflow.yaml: more than 1048576 characters"


def test_a_file_gives_its_name_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "meshflow.yaml"
    path.write_text("\ufeffversion: 1\nplugins:\n  rego: {bundle: ümlaut}\n", encoding="utf-8")
    config = load_config(path, environ={})
    assert config.base == tmp_path
    assert config.plugins["rego"]["bundle"] == "ümlaut"
    assert config.where(("plugins", "rego")) == f"{path}:3"
    assert load_config(str(path), environ={}).name == str(path)


def test_a_relative_path_has_an_absolute_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meshflow.yaml").write_text("version: 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load_config("meshflow.yaml")
    assert (config.base, config.name) == (tmp_path, "meshflow.yaml")


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read the file: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read the file: Is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="its name holds a NUL character"):
        load_config("a\0b")


def test_a_file_that_is_not_utf8_or_too_long_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "meshflow.yaml"
    path.write_bytes(b"version: 1\nledger: \xff\n")
    with pytest.raises(ConfigError, match=r"meshflow.yaml:2: the file is not UTF-8 text"):
        load_config(path)
    path.write_bytes("version: 1".encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(path)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        load_config(path)


class _Mode(Enum):
    SHADOW = "shadow"


def test_a_mapping_made_in_python_is_copied_and_has_paths_without_lines() -> None:
    stage: dict[str, Any] = {"mode": _Mode.SHADOW}
    rates = [{"name": "a"}]
    config = config_from_mapping({"stages": {"sla_record": stage}, "limits": {"rates": rates}, "ledger": Path("x.db")})
    rates.append({"name": "b"})
    assert config.stages["sla_record"].mode == "shadow"
    assert config.sections == {"limits": {"rates": [{"name": "a"}]}, "ledger": "x.db"}
    assert config.where(("stages", "sla_record")) == "configuration"
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"stages": {"sla_record": {"moed": "x"}}})
    assert str(caught.value) == "configuration: stages.sla_record.moed: unknown setting (did you mean mode?)"


def test_a_mapping_does_not_read_the_environment() -> None:
    assert config_from_mapping({"ledger": "${HOME}"}).sections["ledger"] == "${HOME}"


def test_a_mapping_is_held_to_the_bounds_of_a_file() -> None:
    loop: dict[str, Any] = {}
    loop["limits"] = loop
    wrong: list[tuple[Any, str]] = [
        ({1: 2}, "configuration: a key is text, not int"),
        ({"limits": {10**9999: 2}}, "configuration: limits: a key is text, not int"),
        ({"limits": object()}, "limits: a setting is text, a number, true, false, a list or a mapping, not object"),
        ({"limits": float("nan")}, "configuration: limits: nan is not a number that a setting can have"),
        ({"limits": [10**9999]}, "limits[0]: a number beyond 64 bits is not a number that a setting can have"),
        ({"limits": "\ud800"}, "configuration: limits: holds half of a surrogate pair, which is not text"),
        ({"\0": 1}, "configuration: key '\\x00' holds a NUL character"),
        (loop, "more than 64 levels deep"),
        ({"limits": list(range(100_001))}, "more than 100000 values"),
        ([], "configuration: should be a mapping with keys such as stages and plugins"),
    ]  # fmt: skip
    for mapping, message in wrong:
        with pytest.raises(ConfigError) as caught:
            config_from_mapping(mapping)
        assert message in str(caught.value)
