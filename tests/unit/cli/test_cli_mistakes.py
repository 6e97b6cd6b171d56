from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Shell

SLIPS = {
    "ledgr: {path: x.db}": "meshflow.yaml:2: ledgr: unknown setting (did you mean ledger?)",
    "ledger: {pth: x.db}": "meshflow.yaml:2: ledger.pth: unknown setting (did you mean path?)",
    "ledger:\n  retention:\n    - {kep: 30d}": "meshflow.yaml:4: ledger.retention[0].",
    "plugins:\n  ledger: {pth: x.db}": "meshflow.yaml:3: plugins.ledger.pth: unknown setting (did you mean path?)",
    "plugins: {regoo: {bundle: x}}": "meshflow.yaml:2: plugins.regoo: no plugin of this name is installed",
    "plugins: {disable: [presidoi]}": "meshflow.yaml:2: plugins.disable: no plugin 'presidoi' is installed",
    "limits: {cap: []}": "meshflow.yaml:2: limits.cap: unknown setting (did you mean caps?)",
    "tools:\n  tools:\n    pay: {risk: readonly}": "meshflow.yaml:4: tools.tools.pay.risk: should be 'read_only'",
    "telemetry: {objectivs: []}": "meshflow.yaml:2: telemetry.objectivs: unknown setting (did you mean objectives?)",
    "profiles: [{us: hipaa}]": "meshflow.yaml:2: profiles[0].use: is required and not set",
    "approvals: {expire: 3}": "meshflow.yaml:2: approvals.expire: unknown setting (did you mean expires_s?)",
    "stages: {policy_evaluation: regoo}": "meshflow.yaml:2: no plugin named 'regoo' is installed or allowed",
    "tenants:\n  acme:\n    limits: {cap: []}": "meshflow.yaml:4: tenants.acme.limits.cap: unknown setting",
    "tenants:\n  acme:\n    tools: {tools: {pay: {rsk: internal}}}": "meshflow.yaml:4: tenants.acme.tools.tools.pay",
    "tenants:\n  acme:\n    stages: {input_guardrails: guardrials}": "meshflow.yaml:4: no plugin named 'guardrials'",
}
READERS = (
    ("stages",),
    ("explain", "--node", "pay"),
    ("run", "job.py"),
    ("replay", "desk"),
    ("report", "hipaa"),
    ("approvals", "list"),
    ("approvals", "show", "any"),
    ("ledger", "list"),
    ("ledger", "verify"),
    ("ledger", "export", "desk"),
    ("ledger", "doctor"),
    ("ledger", "retention"),
    ("ledger", "erase", "desk", "--reason", "asked", "--authority", "law"),
    ("profiles", "list"),
    ("profiles", "check"),
    ("policy", "check"),
    ("policy", "eval"),
)


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_any_section_ends_every_kind_of_command_with_its_line(
    shell: Shell, ledger: Path, job: str, slip: str
) -> None:
    shell.write("meshflow.yaml", f"version: 1\n{slip}\n")
    shell.write("job.py", job)
    for command in READERS:
        done = shell(*command)
        assert (done.code, done.out) == (3, ""), command
        assert SLIPS[slip] in done.err, command


def test_a_profile_that_is_not_there_is_named_with_its_line(shell: Shell) -> None:
    shell.write("meshflow.yaml", "profiles:\n  - gdpr\n  - hippa\n")
    for command in (("stages",), ("profiles", "list"), ("profiles", "check")):
        done = shell(*command)
        assert done.code == 3
        assert done.err == "meshflow: meshflow.yaml:3: profiles[1]: no profile is named 'hippa'; did you mean hipaa?\n"
    shell.write("meshflow.yaml", "tenants:\n  acme:\n    profiles: [hippa]\n")
    assert "meshflow.yaml:3: tenants.acme.profiles[0]: no profile is named 'hippa'" in shell("stages").err


def test_a_schema_and_a_list_of_plugins_are_had_beside_a_wrong_setting(shell: Shell) -> None:
    shell.write("meshflow.yaml", "ledger: {pth: x.db}\n")
    assert shell("schema").document["properties"]["ledger"]
    done = shell("plugins", "list")
    assert (done.code, "meshflow.yaml:1: ledger.pth: unknown setting" in done.err) == (0, True)
    assert shell("plugins", "doctor").code == 3


def test_a_plugin_that_cannot_be_imported_keeps_nobody_from_the_ledger(
    shell: Shell, ledger: Path, install: Callable[..., None]
) -> None:
    install("acme_broken", "raise RuntimeError('half installed')", "acme_broken = acme_broken:Guard")
    shell.write("meshflow.yaml", "version: 1\nledger: {path: meshflow_runs.db}\n")
    assert shell("ledger", "verify").code == 0
    assert shell("stages").code == 3


KEY = "example+b71bf89c+AYZHdFS2M4BlUwEZNU+a5W02+vfc5DmpjELBxPc+Pasw"
FILES = (
    ("verify", "{}", "--trust-bundle-keys"),
    ("ledger", "verify", "--checkpoint", "{}"),
    ("ledger", "prove", "--since", "{}"),
    ("ledger", "prove", "--check", "{}", "--key", "held/keys"),
    ("ledger", "compare", "{}", "{}"),
    ("report", "hipaa", "--checkpoint", "{}"),
    ("approvals", "approve", "any", "--edit", "{}"),
    ("explain", "--node", "pay", "--input", "@{}"),
    ("explain", "--node", "pay", "--credential-file", "{}"),
    ("policy", "eval", "--input", "@{}"),
    ("policy", "check", "--data", "{}"),
    ("policy", "sign", "policy", "--key", "{}"),
    ("policy", "check", "{}"),
    ("workflow", "check", "{}"),
    ("workflow", "run", "{}"),
    ("run", "{}"),
    ("stages", "--config", "{}"),
    ("ledger", "list", "--ledger", "{}"),
    ("ledger", "copy", "{}", "copy.db"),
    ("ledger", "witness", "show", "--state", "{}"),
)


@pytest.mark.parametrize("command", FILES, ids=" ".join)
def test_a_file_that_is_not_there_is_a_folder_or_no_text_is_named_in_one_line(
    shell: Shell, ledger: Path, command: tuple[str, ...]
) -> None:
    shell.write("policy/policy.rego", "package meshflow.policy\n")
    shell.write("held/keys", KEY)
    shell.write("binary.bin", "").write_bytes(b"\xff\xfe\x00\x80" * 64)
    for name in ("nowhere.file", "policy", "binary.bin"):
        if name == "policy" and command[:2] == ("policy", "check"):
            continue
        done = shell(*(word.format(name) for word in command))
        assert done.code in (1, 2, 3, 4), name
        assert name in done.err + done.out, name
        assert "Errno" not in done.err + done.out, name
        assert "Traceback" not in done.err, name
        if name == "nowhere.file":
            assert done.code != 1
            assert done.out == ""


def test_an_export_of_an_unknown_run_prints_no_half_of_a_document(shell: Shell, ledger: Path) -> None:
    for form in ("json", "csv"):
        done = shell("ledger", "export", "nobody", "--format", form)
        assert (done.code, done.out) == (4, "")
        assert "has no run 'nobody'" in done.err


WRITERS = (
    ("ledger", "checkpoint", "--output", "{}"),
    ("ledger", "export", "desk", "--output", "{}"),
    ("ledger", "export", "desk", "--format", "bundle", "-o", "{}"),
    ("ledger", "prove", "desk", "0", "--output", "{}"),
    ("report", "hipaa", "--output", "{}"),
    ("report", "hipaa", "--html", "{}"),
    ("policy", "backtest", "--html", "{}"),
    ("policy", "test", "--junit", "{}"),
)


@pytest.mark.parametrize("command", WRITERS, ids=" ".join)
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    shell: Shell, ledger: Path, command: tuple[str, ...]
) -> None:
    (shell.folder / "held").mkdir()
    done = shell(*(word.format("nowhere/file") for word in command))
    assert (done.code, done.out) == (2, "")
    assert "there is no folder nowhere to write file into" in done.err
    done = shell(*(word.format("held") for word in command))
    assert (done.code, done.out) == (2, "")
    assert "held is a folder; name a file in it" in done.err


@pytest.mark.parametrize("command", [("report", "hipaa"), ("policy", "backtest")], ids=" ".join)
def test_a_time_that_is_none_is_a_mistake_on_the_command_line(
    shell: Shell, ledger: Path, command: tuple[str, ...]
) -> None:
    for option in ("--since", "--until"):
        done = shell(*command, option, "yesterday")
        assert done.code == 2
        assert "'yesterday' is not a time such as 2026-11-29T08:00:00Z" in done.err


def test_a_ledger_taken_for_a_bundle_is_told_apart(shell: Shell, ledger: Path) -> None:
    done = shell("verify", "meshflow_runs.db", "--trust-bundle-keys")
    assert done.code == 1
    assert "it is a ledger, not a bundle of one: meshflow ledger verify --ledger meshflow_runs.db" in done.out
