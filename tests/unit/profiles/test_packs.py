"""Profile packs: found, read strictly and by line, and what they extend."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from meshflow.errors import ConfigError
from meshflow.policy import shipped_bundle
from meshflow.policy.rego_tests import run_rego_tests
from meshflow.profiles import find_pack, load_pack, manifest_schema, pack_names

HIPAA = shipped_bundle("profiles/hipaa")
SMALL = """\
name: {name}
title: Small
version: "1"
edition: "1"
controls:
  - id: {name} 1
    title: t
    source: s
    how: h
    evidence: [{{holds: {{executed: true}}}}]
not_covered: [{{id: {name} 9, title: t, why: w}}]
"""
RULES = 'package meshflow.compliance\n\ndecision := {"allow": true}\n'


def small(folder: Path, name: str = "small", more: str = "", rules: str | None = RULES) -> Path:
    folder.mkdir(parents=True)
    (folder / "profile.yaml").write_text(SMALL.format(name=name) + more, encoding="utf-8")
    if rules is not None:
        (folder / "rules.rego").write_text(rules, encoding="utf-8")
    return folder


def copied(folder: Path, **changes: Any) -> Path:
    shutil.copytree(HIPAA, folder)
    manifest = yaml.safe_load((folder / "profile.yaml").read_text(encoding="utf-8"))
    manifest.update(changes)
    (folder / "profile.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    return folder


def use(name: str | Path, base: Path | None = None, **given: Any) -> Any:
    return find_pack(str(name), given, base or Path())


def test_packs_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert "hipaa" in pack_names()
    assert use("hipaa").manifest.name == "hipaa"
    copied(tmp_path / "mine", name="mine")
    assert use("./mine", tmp_path).manifest.name == "mine"
    assert use(tmp_path / "mine").manifest.name == "mine"


def test_the_digest_follows_rules_manifest_settings_and_what_is_extended(tmp_path: Path) -> None:
    first = use("hipaa").digest
    assert first == use("hipaa").digest
    changed = copied(tmp_path / "a", required_stages=["audit_ledger"])
    again = copied(tmp_path / "b")
    (again / "compliance.rego").write_text(
        (HIPAA / "compliance.rego").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    digests = {first, use("hipaa", treatment_roles=["nurse"]).digest, use(changed).digest, use(again).digest}
    child = small(tmp_path / "child", more="extends: ../parent\n")
    parent = small(tmp_path / "parent", name="parent")
    before = use(child).digest
    (parent / "rules.rego").write_text(RULES + "\nother := 1\n", encoding="utf-8")
    assert len({*digests, before, use(child).digest}) == 6


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"treatment_role": ["x"]}, r"profiles\.hipaa\.treatment_role: unknown setting \(did you mean treatment_roles"),
        ({"treatment_roles": "nurse"}, r"profiles\.hipaa\.treatment_roles: must be a list, not a str"),
        ({"treatment_roles": [1]}, "must be a list of text"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        use("hipaa", **given)


def test_an_unknown_profile_is_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="did you mean hipaa"):
        use("hippa")
    with pytest.raises(ConfigError, match="there are: "):
        use("zzz")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"controls": []}, "controls"),
        ({"not_covered": []}, "not_covered"),
        ({"name": "Not A Name"}, "name"),
        ({"required_stages": ["audit"]}, r"required_stages\[0\]: unknown stage"),
        ({"requires": {"verified_identy": True}}, r"requires\.verified_identy: .*did you mean verified_identity"),
        ({"requires": {"verified_identity": False}}, r"requires\.verified_identity: takes true"),
        ({"requires": {"approval_from": "sometimes"}}, r"requires\.approval_from: takes irreversible, "),
        ({"retention": {"at_least_days": 0}}, r"retention\.at_least_days"),
        ({"retention": {"at_least_days": 9, "at_most_days": 8}}, "at_least_days 9 is more than at_most_days 8"),
        ({"required_settings": [{"setting": "plugins.x.y", "why": "z"}]}, "exactly one of equals"),
        ({"required_settings": [{"setting": "x", "equals": 1, "why": "z"}]}, r"required_settings\[0\]\.setting"),
        ({"surprise": 1}, "surprise: unknown setting"),
        ({"approval": {"declared_risk": "huge"}}, r"approval\.declared_risk"),
        ({"entities": {"US_SSN": "hide"}}, r"entities\.US_SSN"),
        ({"settings": {"roles": {"default": []}}}, r"settings\.roles\.about"),
    ],
)
def test_a_wrong_manifest_is_refused_by_line_and_key(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    folder = copied(tmp_path / "pack", **changes)
    with pytest.raises(ConfigError, match=rf"profile\.yaml:\d+: (.*\n)*.*{part}"):
        use(folder)


@pytest.mark.parametrize(
    ("evidence", "part"),
    [
        ("{holds: {}}", "holds"),
        ("{holds: {verdicts: commit}}", "did you mean verdict"),
        ("{holds: {stages.audit.enforced: true}}", "unknown stage"),
        ("{holds: {stages.audit_ledger.colour: true}}", "no field"),
        ("{records: intent, holds: {verdict: commit}}", "no field of the records intent"),
        ("{records: ledger, holds: {sigend: true}}", "did you mean signed"),
        ("{records: rumour, holds: {executed: true}}", r"records: should be"),
        ("{holds: {tool: {setting: nothing}}}", "unknown setting of the pack"),
        ("{holds: {settings.nothing: 1}}", "unknown setting of the pack"),
        ("{holds: {tool: {matches: x}}}", "unknown comparison"),
        ("{holds: {tool: {not: x, glob: y}}}", "should be a value, a list of values"),
        ("{holds: {tool: []}}", "a list holds the single values"),
        ("{holds: {risk: {at_least: very_high}}}", "at_least takes a number, or a level"),
        ("{holds: {tool: {known: maybe}}}", "known takes true or false"),
        ("{holds: {tool: {same_as: nobody}}}", "'nobody': no field"),
        ("{holds: {any: {tool: x}}}", "should be a list of conditions"),
        ("{holds: {none: [{}]}}", "should be a list of conditions"),
        ("{holds: {is: quiet}}", "unknown condition"),
        ("{holds: {is: 7}}", "takes the name of a condition"),
    ],
)
def test_wrong_evidence_is_refused_by_line(tmp_path: Path, evidence: str, part: str) -> None:
    folder = small(tmp_path / "pack")
    text = (folder / "profile.yaml").read_text("utf-8").replace("{holds: {executed: true}}", evidence)
    (folder / "profile.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=rf"profile\.yaml:10: controls\[0\]\.evidence.*{part}"):
        use(folder)


def test_a_named_condition_may_not_use_another(tmp_path: Path) -> None:
    more = "conditions:\n  a: {is: b}\n  b: {is: a}\n"
    folder = small(tmp_path / "pack", more=more)
    text = (folder / "profile.yaml").read_text("utf-8").replace("executed: true", "is: a")
    (folder / "profile.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="a named condition may not use another"):
        use(folder)


def test_a_control_is_listed_once_and_not_among_the_gaps(tmp_path: Path) -> None:
    manifest = yaml.safe_load((HIPAA / "profile.yaml").read_text("utf-8"))
    first = manifest["controls"][0]
    with pytest.raises(ConfigError, match="listed twice"):
        use(copied(tmp_path / "twice", controls=[first, first]))
    gap = {"id": first["id"], "title": "t", "why": "w"}
    with pytest.raises(ConfigError, match="among the controls that are served"):
        use(copied(tmp_path / "gap", not_covered=[gap]))


def test_a_control_needs_evidence(tmp_path: Path) -> None:
    controls = [{"id": "X 1", "title": "t", "source": "s", "how": "h"}]
    with pytest.raises(ConfigError, match=r"controls\[0\]\.evidence: is required"):
        use(copied(tmp_path / "pack", controls=controls))


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile\.yaml: profiles: cannot be read"):
        use("./nothing", tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "profile.yaml").write_bytes(b"name: a\n\xff\n")
    with pytest.raises(ConfigError, match=r"profile\.yaml:2: the file is not UTF-8"):
        use("./odd", tmp_path)
    (tmp_path / "odd" / "profile.yaml").write_bytes(b"- a\n")
    with pytest.raises(ConfigError, match="should be a mapping"):
        use("./odd", tmp_path)


def test_a_pack_may_not_bring_the_library_of_all_packs(tmp_path: Path) -> None:
    folder = small(tmp_path / "pack")
    (folder / "meshflow" / "pack").mkdir(parents=True)
    (folder / "meshflow" / "pack" / "pack.rego").write_text("package meshflow.pack\n\nverified := true\n", "utf-8")
    with pytest.raises(ConfigError, match="is added to every such bundle"):
        use(folder)


def test_a_pack_extends_others_and_hands_settings_on(tmp_path: Path) -> None:
    more = "extends: [{use: hipaa, treatment_roles: [nurse]}]\nsettings: {mine: {default: 1, about: x}}\n"
    folder = small(tmp_path / "clinic", "clinic", more, rules=None)
    pack = use(folder, mine=2, supervised=["export"])
    assert [one.manifest.name for one in pack.line()] == ["hipaa", "clinic"]
    assert pack.bundle is None
    (parent,) = pack.parents
    assert (pack.settings["mine"], parent.settings["treatment_roles"]) == (2, ["nurse"])
    assert parent.settings["supervised"] == ["export"]
    with pytest.raises(ConfigError, match="unknown setting"):
        use(folder, supervise=["export"])


def test_packs_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    small(tmp_path / "a", "a", "extends: ../b\n")
    small(tmp_path / "b", "b", "extends: ../a\n")
    with pytest.raises(ConfigError, match=r"profile\.yaml:\d+: extends: extends a pack that extends it"):
        use("./a", tmp_path)
    small(tmp_path / "c", "c", "extends: hippa\n")
    with pytest.raises(ConfigError, match=r"c/profile\.yaml:\d+: .*did you mean hipaa"):
        use("./c", tmp_path)


def test_the_published_schema_accepts_what_is_shipped_and_refuses_what_is_not() -> None:
    validator = jsonschema_rs.validator_for(manifest_schema())
    for name in pack_names():
        manifest = yaml.safe_load((shipped_bundle(f"profiles/{name}") / "profile.yaml").read_text("utf-8"))
        assert validator.is_valid(manifest), name
    manifest = yaml.safe_load(SMALL.format(name="small"))
    for good in ({"extends": "hipaa"}, {"extends": ["hipaa", {"use": "x", "y": 1}]}, {"entities": ["US_SSN"]}):
        assert validator.is_valid({**manifest, **good})
    for wrong in ({"extends": 7}, {"surprise": 1}, {"entities": {"US_SSN": "hide"}}, {"controls": []}):
        assert not validator.is_valid({**manifest, **wrong})


def installed(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr("meshflow.profiles.packs.entry_points", lambda group: EntryPoints(entries).select(group=group))


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "meshflow.profiles")


def test_an_installed_pack_is_found_by_its_package_or_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(tmp_path / "acme_pack", name="acme")
    (tmp_path / "acme_pack/__init__.py").write_text(
        "from pathlib import Path\n\nFOLDER = Path(__file__).parent\nWRONG = 7\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    installed(monkeypatch, entry("acme", "acme_pack"), entry("acme-path", "acme_pack:FOLDER"))
    assert "acme" in pack_names()
    assert use("acme").manifest.name == "acme"
    assert use("acme-path").manifest.name == "acme"
    installed(monkeypatch, entry("acme", "acme_pack:WRONG"))
    with pytest.raises(ConfigError, match="must name a package or a path"):
        use("acme")
    installed(monkeypatch, entry("acme", "acme_pack_that_is_gone"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        use("acme")
    sys.modules.pop("acme_pack", None)


def test_two_packs_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, entry("hipaa", "someone_elses"))
    with pytest.raises(ConfigError, match="'hipaa' is provided by someone_elses and meshflow"):
        use("hipaa")


def test_every_rego_test_of_the_library_passes() -> None:
    from meshflow.policy import Bundle

    results = run_rego_tests(Bundle.load(shipped_bundle("pack"), tests=True))
    assert [test for test in results if not test.passed] == []
    assert len(results) >= 10


def test_rules_see_their_own_settings_and_name(tmp_path: Path) -> None:
    rules = 'package meshflow.compliance\n\ndecision := {"allow": true}\n'
    tests = """package meshflow.compliance_test

test_name if data.meshflow.profile.name == "small"

test_setting if data.meshflow.profile.settings.mine == 2
"""
    folder = small(tmp_path / "pack", more="settings: {mine: {default: 1, about: x}}\n", rules=rules)
    (folder / "rules_test.rego").write_text(tests, "utf-8")
    bundle = load_pack(folder, {"mine": 2}, tests=True).bundle
    assert bundle is not None
    assert [test.passed for test in run_rego_tests(bundle)] == [True, True]
