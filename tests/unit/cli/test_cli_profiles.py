"""meshflow profiles and meshflow report: packs listed, shown, checked and begun, and evidence reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from meshflow.policy import shipped_bundle

if TYPE_CHECKING:
    from .conftest import Shell

IDENTITY = "plugins: {identity: {keys: [{pem: k.pem}], issuer: i, audience: a}}\n"


def test_profiles_are_listed_with_who_has_them_active(shell: Shell) -> None:
    shell.write("meshflow.yaml", "tenants: {clinic: {profiles: [hipaa]}}\n" + IDENTITY)
    done = shell("profiles", "list", "--json")
    (hipaa,) = (row for row in done.document["profiles"] if row["name"] == "hipaa")
    assert (hipaa["active"], hipaa["distribution"], hipaa["problem"]) == (["tenant clinic"], "meshflow", None)
    assert "45 CFR Part 164" in shell("profiles", "list").out
    shell.write("meshflow.yaml", "profiles: [hipaa]\n")
    assert shell("profiles", "list", "--json").document["profiles"][0].keys() == hipaa.keys()


def test_a_profile_is_shown_with_its_settings_here(shell: Shell) -> None:
    shell.write("meshflow.yaml", "profiles: [{use: hipaa, treatment_roles: [surgeon]}]\n")
    document = shell("profiles", "show", "hipaa", "--json").document
    assert (document["active"], document["settings"]["treatment_roles"]) == (True, ["surgeon"])
    text = shell("profiles", "show", "hipaa").out
    for part in ("164.312(d)", "surgeon", "at least 2192 days", "Not covered", "approval_from: irreversible"):
        assert part in text
    assert shell("profiles", "show", "hippa").code == 3


def test_a_check_says_what_the_configuration_lacks(shell: Shell) -> None:
    shell.write("meshflow.yaml", "tools:\n  approval_from: never\n")
    done = shell("profiles", "check", "hipaa")
    assert done.code == 0
    assert re.search(r"hipaa: sound; 14 controls, \d+ Rego tests", done.out)
    assert "meshflow.yaml:2: tools.approval_from: hipaa requires approval_from: irreversible" in done.out
    assert "plugins.identity.keys: hipaa requires verified_identity" in done.out
    assert shell("profiles", "check", "hipaa", "--ready").code == 1
    shell.write("meshflow.yaml", "profiles: [hipaa]\n")
    assert shell("profiles", "check").code == 1
    shell.write("meshflow.yaml", "profiles: [hipaa]\n" + IDENTITY)
    done = shell("profiles", "check")
    assert (done.code, "meets what it needs" in done.out) == (0, True)
    shell.write("meshflow.yaml", IDENTITY)
    done = shell("profiles", "check")
    assert (done.code, "no profile is active" in done.err) == (3, True)


@pytest.mark.parametrize("options", [(), ("--name", "acme-iso", "--extends", "hipaa")])
def test_a_new_pack_passes_its_own_check_and_tests(shell: Shell, options: tuple[str, ...]) -> None:
    done = shell("profiles", "new", "acme", *options, "--json")
    assert done.code == 0
    manifest = Path(done.document["written"][0])
    checked = shell("profiles", "check", f"./{manifest.parent}", "--json").document["profiles"][0]
    assert (checked["sound"], checked["problems"]) == (True, [])
    assert checked["tests"] >= 4
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "acme/tests"], capture_output=True, text=True,
        cwd=shell.folder, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert shell("profiles", "new", "acme").code == 3


@pytest.mark.parametrize(("name", "part"), [("Not A Name", "lower-case letters"), ("a/b", "lower-case letters")])
def test_a_new_pack_has_a_name(shell: Shell, name: str, part: str) -> None:
    done = shell("profiles", "new", "acme", "--name", name)
    assert (done.code, part in done.err) == (3, True)
    assert not (shell.folder / "acme").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("compliance.rego", "not pack.verified", "not pack.verifyed"), "compliance_test.rego:18: "),
        (("compliance.rego", "not pack.verified", "not http.send(1)"), "http.send"),
        (("compliance.rego", "not pack.verified", "input.risk == 1"), "input.risk is not known yet at stage 6"),
        (
            ("compliance.rego", "decision :=", "decisions :="),
            "acme/src/profile_acme: the bundle has none of the entry points",
        ),
        (("compliance.rego", '"ACME 1"', '"ACME 7"'), "names the control 'ACME 7', which is not in the manifest"),
        (("compliance.rego", '"needs_a_second_person"', '"renamed"'), "no test names the rule renamed"),
        (("compliance_test.rego", "not decision.allow", "decision.allow"), "test_a_principal_without_credential"),
        (("compliance_test.rego", "test_", "tried_"), "the rules have no test"),
    ],
)
def test_a_check_finds_what_is_wrong_with_a_pack(shell: Shell, change: tuple[str, str, str], part: str) -> None:
    shell("profiles", "new", "acme")
    name, old, new = change
    path = shell.folder / "acme" / "src" / "profile_acme" / name
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    done = shell("profiles", "check", "./acme/src/profile_acme")
    assert done.code == 3
    assert part in done.out + done.err


def test_the_schema_of_manifests_is_printed(shell: Shell) -> None:
    validator = jsonschema_rs.validator_for(shell("profiles", "schema").document)
    import yaml

    assert validator.is_valid(yaml.safe_load((shipped_bundle("profiles/hipaa") / "profile.yaml").read_text("utf-8")))


def test_a_report_is_printed_and_written(shell: Shell, ledger: Path) -> None:
    done = shell("report", "hipaa", "--html", "out.html", "--output", "out.json")
    assert done.code == 1  # nobody showed a credential
    assert "45 CFR 164.312(d)" in done.out
    assert "VIOLATED" in done.out
    assert "principal.verified is false" in done.out
    report = json.loads((shell.folder / "out.json").read_text("utf-8"))
    assert report == shell("report", "hipaa", "--json").document | {"generated_at": report["generated_at"]}
    html = (shell.folder / "out.html").read_text("utf-8")
    assert html.startswith("<!doctype html>")
    assert report["fingerprints"][0]["fingerprint"] in html
    assert shell("report", "hipaa", "--until", "2001-01-01T00:00:00Z").code == 0


def test_a_report_takes_the_settings_of_the_active_profile(shell: Shell, ledger: Path) -> None:
    assert shell("report", "hipaa", "--json").document["profile"]["settings"]["hipaa"]["without_phi"] == []
    shell.write("meshflow.yaml", "profiles: [{use: hipaa, without_phi: ['*']}]\n")
    document = shell("report", "hipaa", "--json").document
    assert document["profile"]["settings"]["hipaa"]["without_phi"] == ["*"]
    (access,) = (one for one in document["controls"] if one["id"] == "45 CFR 164.312(a)(1)")
    assert access["status"] == "not_exercised"


def test_an_encrypted_ledger_is_reported_of_with_the_configured_key(shell: Shell) -> None:
    import asyncio
    import base64

    from meshflow import NodeInput, StepRuntime

    key = shell.write("wrapping.key", base64.b64encode(bytes(range(32))).decode())
    key.chmod(0o600)
    shell.write("meshflow.yaml", "ledger: {path: kept/runs.db, encrypt: run, key_encryption_key: wrapping.key}\n")
    (shell.folder / "kept").mkdir()

    async def act() -> None:
        async with StepRuntime(config="meshflow.yaml") as runtime:
            assert (await runtime.run(NodeInput(node_id="n", input="x", handler=str.upper))).ok

    asyncio.run(act())
    for arguments in ((), ("--ledger", "kept/runs.db")):
        document = shell("report", "gdpr", *arguments, "--json").document
        (identity,) = (one for one in document["controls"] if one["id"] == "GDPR Art. 32(1)(b)")
        assert (identity["status"], identity["counts"]["undecidable"]) == ("violated", 0)


def test_a_report_compares_with_what_was_kept_outside(shell: Shell, ledger: Path) -> None:
    from meshflow import ReplayLedger

    async def kept() -> tuple[str, str]:
        async with ReplayLedger(ledger) as opened:
            return await opened.checkpoint(), (await opened.verifiers())[0]

    import asyncio

    note, key = asyncio.run(kept())
    path = shell.write("kept.txt", note)
    document = shell("report", "hipaa", "--checkpoint", str(path), "--key", key, "--json").document
    assert (document["ledger"]["held_size"], document["ledger"]["keys_from_outside"]) == (9, True) or (
        document["ledger"]["held_size"] > 9
    )
    wrong = shell.write("wrong.txt", note.replace("\n", "\nx", 1))
    assert shell("report", "hipaa", "--checkpoint", str(wrong)).code == 4
    assert shell("report", "hipaa", "--checkpoint", "nowhere.txt").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("report", "nothing"), 3, "no profile is named"),
        (("report", "hipaa", "--ledger", "nowhere.db"), 4, "there is no ledger"),
        (("report", "hipaa", "--since", "yesterday"), 2, "is not a time such as"),
        (("report", "hipaa", "--html", "."), 2, "is a folder"),
    ],
)
def test_what_cannot_be_reported_is_told(
    shell: Shell, ledger: Path, arguments: tuple[str, ...], code: int, part: str
) -> None:
    done = shell(*arguments)
    assert done.code == code, done.err
    assert part in done.err


def test_a_tampered_ledger_is_not_reported_of(shell: Shell, ledger: Path, tamper: Callable[[Path], Any]) -> None:
    tamper(ledger)
    done = shell("report", "hipaa", "--html", "out.html")
    assert (done.code, done.out) == (4, "")
    assert "does not verify, so nothing is reported" in done.err
    assert not (shell.folder / "out.html").exists()


@pytest.fixture
def tamper() -> Callable[[Path], None]:
    import sqlite3

    def work(path: Path) -> None:
        connection = sqlite3.connect(path)
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("DELETE FROM payloads WHERE id IN (SELECT min(id) FROM payloads)")
        connection.commit()
        connection.close()

    return work
