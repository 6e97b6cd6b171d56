from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
import yaml

from meshflow.registry.manifest import BESIDE, FIRST_PARTY

if TYPE_CHECKING:
    from .conftest import Shell

Install = Callable[..., None]

GUARD = """
from meshflow.plugin import NoSettings, Plugin, hookimpl

class Guard(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, context):
        return None
"""
NEEDY = """
from pydantic import Field
from meshflow.plugin import Plugin, Settings, hookimpl

class NeedySettings(Settings):
    url: str = Field(description="Where to ask.")

class Needy(Plugin[NeedySettings]):
    settings_type = NeedySettings

    @hookimpl
    async def evaluate_policy(self, context):
        return None
"""


def listed(shell: Shell) -> dict[str, Any]:
    return {row["name"]: row for row in shell("plugins", "list", "--json").document["plugins"]}


def problems(document: Any) -> dict[str, str]:
    return {one["check"]: one["message"] for one in document["checks"] if one["level"] == "error"}


def test_default_plugins_are_listed_and_in_use(shell: Shell) -> None:
    rows = listed(shell)
    assert rows.keys() == FIRST_PARTY | BESIDE
    assert rows["candidate"]["in_use"] == []
    assert rows["limits"]["stages"] == rows["limits"]["in_use"] == ["rate_limiting", "budget_check"]
    assert "settle_step" in rows["limits"]["hooks"]
    table = shell("plugins", "list").out
    assert "meshflow_limits:LimitsPlugin" in table


def test_a_plugin_is_listed_as_used_unused_or_disabled(shell: Shell, install: Install) -> None:
    install("acme_guard", GUARD, "acme_guard = acme_guard:Guard")
    install("needy", NEEDY, "needy = needy:Needy")
    rows = listed(shell)
    assert rows["acme_guard"]["in_use"] == ["input_guardrails"]
    assert rows["needy"]["in_use"] == []
    assert (rows["needy"]["distribution"], rows["needy"]["version"]) == ("needy", "1.0")
    shell.write("meshflow.yaml", "plugins: {disable: [acme_guard]}\n")
    rows = listed(shell)
    assert (rows["acme_guard"]["disabled"], rows["acme_guard"]["in_use"]) == (True, [])


def test_a_broken_plugin_does_not_hide_the_others(shell: Shell, install: Install) -> None:
    install("acme_broken", "raise RuntimeError('half installed')", "acme_broken = acme_broken:Guard")
    done = shell("plugins", "list", "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in done.document["plugins"]}
    assert rows.keys() == FIRST_PARTY | BESIDE | {"acme_broken"}
    assert "half installed" in rows["acme_broken"]["problem"]
    assert rows["rego"]["in_use"] is None
    assert "acme_broken" in done.document["problem"]
    table = shell("plugins", "list")
    assert table.code == 0
    assert "half installed" in table.err


def test_a_sound_installation_passes(shell: Shell) -> None:
    done = shell("plugins", "doctor", "--json")
    assert done.code == 0
    assert done.document["ok"] is True
    assert not problems(done.document)
    assert {"import", "settings", "hooks", "dependencies", "configuration"} <= {
        one["check"] for one in done.document["checks"]
    }
    assert "0 errors" in shell("plugins", "doctor").out
    assert not (shell.folder / "meshflow_runs.db").exists()


def test_starting_finds_what_only_a_start_can_find(shell: Shell) -> None:
    assert shell("plugins", "doctor", "--start").code == 0
    (shell.folder / "folder").mkdir()
    shell.write("meshflow.yaml", "ledger: folder\n")
    assert shell("plugins", "doctor").code == 0
    done = shell("plugins", "doctor", "--start", "--json")
    assert done.code == 3
    assert "cannot be opened" in problems(done.document)["start"]


@pytest.mark.parametrize(
    ("module", "check", "said"),
    [
        ("raise RuntimeError('half installed')", "import", "half installed"),
        ("import no_such_module_at_all", "import", "no_such_module_at_all"),
        ("class Guard: pass", "import", "must be a subclass"),
        (GUARD.replace("    @hookimpl\n", ""), "import", "not marked with @hookimpl"),
        (GUARD.replace("(self, context)", "(self, contxt)"), "hooks", "contxt"),
        (
            GUARD.replace("async def guard_input(self, context)", "async def guard_inptu(self, context)"),
            "hooks",
            "inptu",
        ),
        (
            GUARD + "    def __init__(self, settings, host=None):\n        raise OSError('no disk')\n",
            "hooks",
            "no disk",
        ),
    ],
)
def test_the_doctor_names_what_is_wrong_with_a_plugin(
    shell: Shell, install: Install, module: str, check: str, said: str
) -> None:
    install("acme_guard", module, "acme_guard = acme_guard:Guard")
    done = shell("plugins", "doctor", "--json")
    assert done.code == 3
    found = [one for one in done.document["checks"] if one["level"] == "error" and one["plugin"] == "acme_guard"]
    assert [one["check"] for one in found] == [check]
    assert said in found[0]["message"]
    text = shell("plugins", "doctor")
    assert text.code == 3
    assert "acme_guard" in text.out
    assert "Traceback" not in text.err


def test_the_doctor_finds_names_that_two_distributions_claim(shell: Shell, install: Install) -> None:
    install("first_guard", GUARD, "guard = first_guard:Guard")
    install("second_guard", GUARD, "guard = second_guard:Guard")
    found = problems(shell("plugins", "doctor", "--json").document)
    assert "first_guard" in found["name"]
    assert "second_guard" in found["name"]


def test_the_doctor_warns_of_plugins_shipped_twice(shell: Shell, install: Install) -> None:
    install("acme_guard", GUARD, "acme_guard = acme_guard:Guard")
    install("acme_bundle", "", "acme_guard = acme_guard:Guard")
    done = shell("plugins", "doctor", "--json")
    assert done.code == 0
    (one,) = [one for one in done.document["checks"] if one["level"] == "warning"]
    assert (one["plugin"], one["check"]) == ("acme_guard", "ownership")


def test_the_doctor_finds_missing_requirements(shell: Shell, install: Install) -> None:
    install("acme_guard", GUARD, "acme_guard = acme_guard:Guard", requires="no-such-distribution>=2")
    found = problems(shell("plugins", "doctor", "--json").document)
    assert "no-such-distribution>=2" in found["dependencies"]


def test_settings_count_only_where_a_plugin_is_wanted(shell: Shell, install: Install) -> None:
    install("needy", NEEDY, "needy = needy:Needy")
    unwanted = shell("plugins", "doctor", "--json")
    assert unwanted.code == 0
    assert "url" in next(one["message"] for one in unwanted.document["checks"] if one["level"] == "warning")
    shell.write("meshflow.yaml", "stages: {policy_evaluation: needy}\n")
    assert "url" in problems(shell("plugins", "doctor", "--json").document)["settings"]


def test_the_doctor_finds_what_a_profile_requires(shell: Shell) -> None:
    shell.write("meshflow.yaml", "profiles: [hipaa]\nstages: {sensitive_data_scan: {mode: shadow}}\n")
    found = problems(shell("plugins", "doctor", "--json").document)
    assert "stages.sensitive_data_scan.mode: hipaa requires" in found["configuration"]
    assert "plugins.identity.keys: hipaa requires" in found["configuration"]
    identity = "{keys: [{pem: k.pem}], issuer: i, audience: a}"
    shell.write("meshflow.yaml", f"profiles: [hipaa]\nplugins: {{identity: {identity}}}\n")
    document = shell("plugins", "doctor", "--json").document
    assert not problems(document)
    assert "hipaa: what it requires is there" in [check["message"] for check in document["checks"]]


def test_the_doctor_finds_obligations_that_nobody_meets(shell: Shell) -> None:
    shell.write(
        "meshflow.yaml",
        "profiles: [hipaa]\nstages:\n  output_guardrails: {mode: disabled}\n  sensitive_data_scan: {mode: disabled}\n",
    )
    found = problems(shell("plugins", "doctor", "--json").document)
    assert "hipaa may oblige a step to mask_entities" in found["configuration"]


def test_the_schema_knows_what_is_installed(shell: Shell, install: Install) -> None:
    install("needy", NEEDY, "needy = needy:Needy")
    install("acme_broken", "raise RuntimeError('half installed')", "acme_broken = acme_broken:Guard")
    done = shell("schema")
    assert done.code == 0
    assert "left out: plugin 'acme_broken'" in done.err
    validator = jsonschema_rs.validator_for(done.document)
    assert validator.is_valid(yaml.safe_load("plugins: {needy: {url: x}, rego: {bundle: p}}"))
    assert not validator.is_valid(yaml.safe_load("plugins: {needy: {ulr: x}}"))
    assert not validator.is_valid(yaml.safe_load("stages: {budget_chek: limits}"))
    assert shell("schema", "--json").document == done.document
