"""Packages that others wrote, installed by pip beside the wheel: what they take over, and what they do not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshflow.registry.manifest import DEFAULTS
from meshflow.stages import STAGES

if TYPE_CHECKING:
    from .conftest import Venv

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests" / "example_plugins"
PROBE = Path(__file__).parent / "probe.py"
SWAPS = sorted(EXAMPLES.glob("swap-*"))
TUESDAY_US = 1_700_000_000_000_000
SATURDAY_US = TUESDAY_US + 4 * 86_400_000_000
PROTECTED = {stage.name for stage in STAGES if stage.protected}

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]


def asked(venv: Venv, config: dict[str, Any] | None = None, *steps: dict[str, Any], now_us: int = TUESDAY_US) -> Any:
    """Run steps in an environment and return what the probe saw."""
    question = {"config": config or {}, "steps": steps, "now_us": now_us}
    return json.loads(venv.python(PROBE, json.dumps(question)).splitlines()[-1])


def project(folder: Path, name: str, entry: str, target: str, source: str) -> Path:
    """Write the folder of a one-module package."""
    path = folder / "projects" / name
    path.mkdir(parents=True)
    module = name.replace("-", "_")
    (path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "0.1"\ndependencies = ["meshflow>=2,<3"]\n'
        f'[project.entry-points."meshflow.plugins"]\n{entry} = "{target}"\n'
    )
    (path / f"{module}.py").write_text(source)
    return path


@pytest.fixture(scope="module")
def crowd(clean_venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """An environment with the fifteen small packages and the Cedar one. Nothing in it is configured."""
    folder = tmp_path_factory.mktemp("crowd")
    venv = clean_venv.copy(folder)
    projects = [EXAMPLES / "acme-meshflow-cedar", *SWAPS]
    venv.install(*(Path(shutil.copytree(path, folder / "sources" / path.name)) for path in projects))
    locked = (ROOT / "constraints" / "dev.txt").read_text()
    cedarpy = re.search(r"^cedarpy==(?:.*\\\n)+.*\n", locked, re.MULTILINE)
    assert cedarpy is not None
    (folder / "cedarpy.txt").write_text(cedarpy.group())
    venv.python("-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", folder / "cedarpy.txt")
    return venv


def test_there_is_a_package_for_each_stage() -> None:
    assert [path.name.split("-")[1] for path in SWAPS] == [f"{stage.number:02d}" for stage in STAGES]


def test_cedar_decides_where_meshflow_yaml_names_it(crowd: Venv) -> None:
    policies = """
        @id("reads") permit(principal, action == Action::"read", resource);
        @id("night") forbid(principal, action, resource == Tool::"reactor.scram");
    """
    config = {"stages": {"policy_evaluation": "cedar"}, "plugins": {"cedar": {"policies": policies}}}
    seen = asked(
        crowd,
        config,
        {"action": "read", "input": "hello"},
        {"action": "read", "kind": "tool", "tool": "reactor.scram", "input": {}},
        {"action": "delete"},
    )
    allowed, forbidden, unknown = seen["outcomes"]
    assert seen["served"]["policy_evaluation"] == [["cedar", "acme-meshflow-cedar", "1.4.0"]]
    assert (allowed["status"], allowed["plugins"]["policy_evaluation"]) == ("completed", ["cedar"])
    assert (forbidden["code"], forbidden["reason"]) == ("policy_evaluation.denied", "forbidden by night")
    assert unknown["reason"] == "no Cedar policy permits it"


def test_protected_stage_is_not_taken_over_by_an_install(crowd: Venv) -> None:
    served = asked(crowd)["served"]
    for stage in PROTECTED:
        assert [name for name, _, _ in served[stage]] == list(DEFAULTS[stage])


@pytest.mark.parametrize(
    ("stage", "names"),
    {
        "rate_limiting": ["weekdays"],
        "budget_check": ["step-count"],
        "compliance_profile": ["compliance", "rego", "contracts"],
        "input_guardrails": ["guardrails", "no-xyzzy"],
        "sensitive_data_scan": ["presidio", "codenames"],
        "risk_classification": ["risk-by-name"],
        "taint_propagation": ["mail-is-external"],
        "output_guardrails": ["guardrails", "presidio", "rego", "checked"],
        "sla_record": ["sla", "slowest"],
    }.items(),
)
def test_other_stages_are_served_by_an_install_alone(crowd: Venv, stage: str, names: list[str]) -> None:
    seen = asked(crowd, None, {"input": "hello", "metadata": {"channel": "mail"}})
    assert [name for name, _, _ in seen["served"][stage]] == names
    number = next(one.number for one in STAGES if one.name == stage)
    distribution, version = next(path.name for path in SWAPS if f"-{number:02d}-" in path.name), f"1.0.{number}"
    assert seen["served"][stage][-1] == [names[-1], distribution, version]
    (outcome,) = seen["outcomes"]
    assert outcome["status"] == "completed"
    if stage == "sla_record":
        assert seen["slowest"] == {"n": 0}  # the clock stands still
    else:
        assert outcome["plugins"][stage] == names


def test_what_an_install_brought_is_seen_to_decide(crowd: Venv) -> None:
    steps = [
        {"input": "the bluebird flies", "metadata": {"channel": "mail"}},
        {"input": "say xyzzy"},
        {"input": "x", "tenant": "acme"},
        {"input": {}, "kind": "tool", "tool": "crm.get_customer"},
        *({"input": "x", "run_id": "long"} for _ in range(4)),
    ]
    first, magic, unsigned, tool, *long = asked(crowd, None, *steps)["outcomes"]
    assert first["output"] == "the <CODENAME> flies [checked]"
    assert first["origin"] == "external"
    assert magic["code"] == "input_guardrails.magic_word"
    assert unsigned["code"] == "compliance_profile.unsigned"
    assert (tool["risk"], first["risk"]) == ("read_only", "internal")
    assert [outcome["code"] for outcome in long] == ["", "", "", "budget_check.steps"]
    (weekend,) = asked(crowd, None, {"input": "x"}, now_us=SATURDAY_US)["outcomes"]
    assert weekend["code"] == "rate_limiting.weekend"


@pytest.mark.parametrize(
    ("stage", "name", "step", "seen"),
    [
        ("identity_verification", "badges", {"credential": "badge-7"}, {"subject": "alice"}),
        ("identity_verification", "badges", {}, {"code": "identity_verification.no_badge"}),
        ("tenant_scoping", "by-agent", {"agent_id": "acme/helper"}, {"tenant": "acme"}),
        ("policy_evaluation", "listed-actions", {"action": "read"}, {"status": "completed"}),
        ("policy_evaluation", "listed-actions", {"action": "x"}, {"code": "policy_evaluation.not_listed"}),
        ("tool_permission", "tool-list", {"kind": "tool", "tool": "x"}, {"code": "tool_permission.not_listed"}),
        ("execution", "loud", {"input": "hush"}, {"output": "HUSH [checked]"}),
        ("audit_ledger", "jsonl", {"input": "x"}, {"status": "completed"}),
    ],
)
def test_protected_stage_is_swapped_by_one_line(
    crowd: Venv, stage: str, name: str, step: dict[str, Any], seen: dict[str, Any]
) -> None:
    config: dict[str, Any] = {"stages": {stage: name}, "plugins": {"contracts": {"signed": ["default", "acme"]}}}
    if stage == "audit_ledger":
        (crowd.path.parent / "steps.jsonl").unlink(missing_ok=True)
    answer = asked(crowd, config, {"input": "x", **step})
    (outcome,) = answer["outcomes"]
    assert [provider[0] for provider in answer["served"][stage]] == [name]
    assert answer["served"][stage][0][1].startswith("swap-")
    assert {key: outcome[key] for key in seen} == seen
    if stage == "audit_ledger":
        lines = [json.loads(line) for line in (crowd.path.parent / "steps.jsonl").read_text().splitlines()]
        assert [json.loads(line["key"])[-1] for line in lines] == ["intent", "step"]
    else:
        assert outcome["plugins"][stage] == [name]


RATE = """
from meshflow.plugin import Decision, NoSettings, Plugin, RateLease, hookimpl

class Rate(Plugin[NoSettings]):
    @hookimpl
    async def limit_rate(self):
        return Decision.allow(fact=RateLease())
"""


def test_two_packages_for_one_stage_conflict_until_a_setting_chooses(
    venv_with: Callable[..., Venv], tmp_path: Path
) -> None:
    rival = project(tmp_path, "rival-rate", "rival", "rival_rate:Rate", RATE)
    venv = venv_with(EXAMPLES / "swap-03-rate", rival)
    refused = asked(venv)
    assert refused["error"] == "StageConflictError"
    assert "rival" in refused["message"]
    assert "weekdays" in refused["message"]
    assert "stages.rate_limiting.use" in refused["message"]
    chosen = asked(venv, {"stages": {"rate_limiting": {"use": "rival"}}})
    assert chosen["served"]["rate_limiting"] == [["rival", "rival-rate", "0.1"]]


def test_an_installed_profile_pack_demands_and_enforces(venv_with: Callable[..., Venv]) -> None:
    venv = venv_with(EXAMPLES / "acme-banking-profile")
    profile = {"profiles": [{"use": "acme-banking", "limit_cents": 1_000}]}
    refused = asked(venv, profile)
    assert refused["error"] == "ConfigError"
    assert "acme-banking requires declared_tools_only" in refused["message"]
    tools = {"pay_out": {"risk": "external_io", "sink": "internal"}}
    payment: dict[str, Any] = {"kind": "tool", "tool": "pay_out", "input": {"cents": 500, "reference": "INV-7"}}
    steps = [payment, {**payment, "input": {"cents": 5_000, "reference": "INV-8"}}, {"input": "hello"}]
    small, large, other = asked(venv, {**profile, "tools": {"tools": tools}}, *steps)["outcomes"]
    assert (small["status"], small["code"]) == ("paused", "compliance_profile.escalated")
    assert large["code"] == "compliance_profile.denied"
    assert "acme-banking.above_limit (AB-7.2): a payment may move at most 1000 cents" in large["reason"]
    assert other["status"] == "completed"
    listed = json.loads(venv.python("-m", "meshflow.cli", "profiles", "list", "--json"))["profiles"]
    (ours,) = (one for one in listed if one["name"] == "acme-banking")
    assert (ours["distribution"], ours["version"], ours["controls"]) == ("acme-banking-profile", "3.1.0", 3)
    checked = json.loads(venv.python("-m", "meshflow.cli", "profiles", "check", "acme-banking", "--json"))
    assert checked["profiles"][0]["sound"] is True


def test_broken_package_is_named_with_the_way_out(venv_with: Callable[..., Venv], tmp_path: Path) -> None:
    broken = project(tmp_path, "broken-rate", "broken", "broken_rate:Rate", "import no_such_module_\n")
    venv = venv_with(broken)
    refused = asked(venv)
    assert refused["error"] == "PluginError"
    for part in ("broken-rate 0.1", "no_such_module_", "plugins.disable: [broken]"):
        assert part in refused["message"]
    assert asked(venv, {"plugins": {"disable": ["broken"]}}, {"input": "x"})["outcomes"][0]["status"] == "completed"


def test_one_name_with_two_targets_names_both_packages(venv_with: Callable[..., Venv], tmp_path: Path) -> None:
    impostor = project(tmp_path, "impostor", "limits", "impostor:Rate", RATE)
    refused = asked(venv_with(impostor))
    assert refused["error"] == "ConfigError"
    for part in ("'limits'", "'impostor'", "'meshflow'"):
        assert part in refused["message"]


def test_default_plugin_installed_over_the_bundle_is_one_and_the_same(venv_with: Callable[..., Venv]) -> None:
    seen = asked(venv_with(ROOT / "plugins" / "meshflow-limits"), None, {"input": "x"})
    assert [name for name, _, _ in seen["served"]["rate_limiting"]] == ["limits"]
    assert seen["outcomes"][0]["status"] == "completed"
