"""Profile packs: found, read strictly, and the shipped one checked against its own manifest."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshflow.plugin import ConfigError
from meshflow.policy import shipped_bundle
from meshflow.policy.rego_tests import run_rego_tests
from meshflow_compliance import ComplianceSettings, ProfileUse, find_pack, pack_names
from meshflow_compliance.packs import load_pack

HIPAA = shipped_bundle("profiles/hipaa")


def copied(folder: Path, **changes: Any) -> Path:
    shutil.copytree(HIPAA, folder)
    manifest = yaml.safe_load((folder / "profile.yaml").read_text(encoding="utf-8"))
    manifest.update(changes)
    (folder / "profile.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    return folder


def use(name: str, base: Path | None = None, **given: Any) -> Any:
    return find_pack(ProfileUse(use=name, **given), base or Path())


def test_every_rego_test_of_the_hipaa_pack_passes() -> None:
    results = run_rego_tests(load_pack(HIPAA, {}, tests=True).bundle)
    assert [test for test in results if not test.passed] == []
    assert len(results) >= 15


def test_every_control_that_a_rule_names_is_in_the_manifest_and_has_a_test() -> None:
    pack = load_pack(HIPAA, {}, tests=True)
    rules, tests = pack.bundle.policies["compliance.rego"], pack.bundle.policies["compliance_test.rego"]
    named = {f"45 CFR {control}" for control in re.findall(r'reason\("\w+", "([^"]+)"', rules)}
    assert len(named) >= 7
    assert named <= {control.id for control in pack.manifest.controls}
    assert [control for control in named if control not in tests and control != "45 CFR 164.312(a)(2)(i)"] == []


def test_obligations_of_the_rules_are_those_of_the_manifest() -> None:
    pack = load_pack(HIPAA, {})
    emitted = set(re.findall(r'\{"name": "(\w+)"', pack.bundle.policies["compliance.rego"]))
    assert emitted == set(pack.manifest.obligations) == {"mask_entities"}


def test_the_manifest_is_honest_about_what_it_leaves_out() -> None:
    manifest = load_pack(HIPAA, {}).manifest
    served, missing = {control.id for control in manifest.controls}, {gap.id for gap in manifest.not_covered}
    assert {"45 CFR 164.312(a)(2)(iv)", "45 CFR 164.310", "45 CFR 164.514(b)(2)(i)"} <= missing
    assert not served & missing
    assert all(re.fullmatch(r"45 CFR 164\.\d{3}(\([a-z0-9]+\)|\([a-zA-Z]+\))*", control) for control in served)
    assert "audit_ledger" in manifest.required_stages
    assert manifest.retention_days == 6 * 365 + 2


def test_packs_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert "hipaa" in pack_names()
    assert use("hipaa").manifest.name == "hipaa"
    copied(tmp_path / "mine", name="mine")
    assert use("./mine", tmp_path).manifest.name == "mine"
    assert use(str(tmp_path / "mine")).manifest.name == "mine"


def test_the_digest_follows_rules_manifest_and_settings(tmp_path: Path) -> None:
    first = use("hipaa").digest
    assert first == use("hipaa").digest
    assert first != use("hipaa", treatment_roles=["nurse"]).digest
    changed = copied(tmp_path / "a", required_stages=["audit_ledger"])
    again = copied(tmp_path / "b")
    (again / "compliance.rego").write_text(
        (HIPAA / "compliance.rego").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    assert len({first, use(str(changed)).digest, use(str(again)).digest}) == 3


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
        ({"required_stages": ["audit"]}, "required_stages"),
        ({"retention_days": 0}, "retention_days"),
        ({"surprise": 1}, "surprise"),
        ({"approval": {"declared_risk": "huge"}}, r"approval\.declared_risk"),
    ],
)
def test_a_wrong_manifest_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    folder = copied(tmp_path / "pack", **changes)
    with pytest.raises(ConfigError, match=rf"profile\.yaml: {part}"):
        use(str(folder))


def test_a_control_may_not_be_listed_twice(tmp_path: Path) -> None:
    controls = [{"id": "X 1", "title": "t", "source": "s", "how": how} for how in ("a", "b")]
    with pytest.raises(ConfigError, match="listed twice"):
        use(str(copied(tmp_path / "pack", controls=controls)))


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile\.yaml: profiles: cannot be read"):
        use("./nothing", tmp_path)


def installed(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(
        "meshflow_compliance.packs.entry_points", lambda group: EntryPoints(entries).select(group=group)
    )


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


def test_settings_take_names_mappings_and_a_single_one() -> None:
    settings = ComplianceSettings.model_validate({"profiles": ["hipaa", {"use": "sox", "x": 1}, "hipaa"]})
    assert [(one.use, one.given) for one in settings.uses] == [("hipaa", {}), ("sox", {"x": 1})]
    assert ComplianceSettings.model_validate({"profiles": "hipaa"}).uses == (ProfileUse(use="hipaa"),)
    assert ComplianceSettings.model_validate({"profiles": {"use": "hipaa"}}).uses == (ProfileUse(use="hipaa"),)
    assert ComplianceSettings().uses == ()
