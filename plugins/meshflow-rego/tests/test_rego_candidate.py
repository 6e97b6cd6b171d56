"""A candidate in shadow: which steps it is asked about, that it never decides, and how often it disagrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.plugin import ConfigError
from meshflow_rego import CandidatePlugin, CandidateSettings

HEAD = "package meshflow.policy\n\n"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "now.rego").write_text(HEAD + 'decision := {"allow": true}\n')
    (tmp_path / "next.rego").write_text(HEAD + 'decision := {"allow": input.node.id != "odd"}\n')
    return {
        "version": 1,
        "stages": {"policy_evaluation": {"also_shadow": ["candidate"]}},
        "plugins": {
            "rego": {"bundle": str(tmp_path / "now.rego")},
            "candidate": {"bundle": str(tmp_path / "next.rego")},
        },
    }


async def run(config: dict[str, Any], steps: int, policy: Any = None) -> tuple[list[Any], dict[str, Any]]:
    outcomes = []
    async with (
        ReplayLedger(":memory:") as ledger,
        StepRuntime(ledger=ledger, config=config, policy=policy) as runtime,
    ):
        for number in range(steps):
            name = "odd" if number % 4 == 0 else "even"
            outcomes.append(await runtime.run(NodeInput(node_id=name, step_id=f"s{number}", run_id="r", handler=str)))
        sla: Any = runtime.plugin("sla")
        return outcomes, sla.snapshot()["shadows"]


def answers(outcomes: list[Any]) -> list[Any]:
    return [one for outcome in outcomes for one in outcome.results if one.plugin == "candidate"]


async def test_a_candidate_is_recorded_never_enforced_and_its_disagreement_is_counted(config: dict[str, Any]) -> None:
    outcomes, shadows = await run(config, 20)
    assert all(outcome.ok for outcome in outcomes)
    found = answers(outcomes)
    assert len(found) == 20
    assert not any(one.enforced for one in found)
    assert {one.evidence["instead_of"] for one in found} == {"rego"}
    assert len({one.evidence["bundle_digest"] for one in found}) == 1
    assert shadows == {
        "candidate at policy_evaluation": {
            "compared": 20, "disagreed": 5, "rate": 0.25, "kinds": {"allow to deny": 5},
        }
    }  # fmt: skip


async def test_a_share_of_the_steps_is_asked_about_and_always_the_same(config: dict[str, Any]) -> None:
    config["plugins"]["candidate"]["share"] = 0.3
    first, shadows = await run(config, 60)
    again, _ = await run(config, 60)
    asked = [one.effect.value != "abstain" for one in answers(first)]
    assert 5 <= sum(asked) <= 35
    assert asked == [one.effect.value != "abstain" for one in answers(again)]
    assert shadows["candidate at policy_evaluation"]["compared"] == sum(asked)
    config["plugins"]["candidate"]["share"] = 0
    none, shadows = await run(config, 5)
    assert shadows == {}
    assert all(outcome.ok for outcome in none)


TOOLS = 'package meshflow.tools\n\ndecision := {"allow": input.node.id != "odd"}\n'


@pytest.mark.parametrize("lost", [True, False])
async def test_an_entry_point_that_one_of_both_lacks_is_a_disagreement(
    config: dict[str, Any], tmp_path: Path, lost: bool
) -> None:
    for name in ("now", "next"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.rego").write_text(HEAD + 'decision := {"allow": true}\n')
    (tmp_path / ("now" if lost else "next") / "t.rego").write_text(TOOLS)
    config["plugins"] = {"rego": {"bundle": str(tmp_path / "now")}, "candidate": {"bundle": str(tmp_path / "next")}}
    config["stages"] |= {"tool_permission": {"also_shadow": ["candidate"]}}
    _, shadows = await run(config, 8)
    kinds = {"allow to abstain": 6, "deny to abstain": 2} if lost else {"abstain to allow": 6, "abstain to deny": 2}
    assert shadows["candidate at tool_permission"]["kinds"] == kinds
    assert shadows["candidate at policy_evaluation"]["disagreed"] == 0


async def test_a_policy_given_to_the_runtime_is_not_the_candidates(config: dict[str, Any], tmp_path: Path) -> None:
    del config["plugins"]["rego"]
    _, shadows = await run(config, 4, policy=str(tmp_path / "now.rego"))
    assert shadows["candidate at policy_evaluation"]["disagreed"] == 1


async def test_a_candidate_that_fails_changes_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "next.rego").write_text(HEAD + 'decision := {"allow": to_number(input.node.id) > 1}\n')
    outcomes, shadows = await run(config, 4)
    assert all(outcome.ok for outcome in outcomes)
    assert shadows["candidate at policy_evaluation"]["kinds"] == {"allow to deny": 4}


async def test_a_candidate_that_does_not_load_stops_the_start(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "next.rego").write_text("package meshflow.policy\n\ndecision := {")
    with pytest.raises(ConfigError, match=r"next\.rego:3"):
        await run(config, 1)


def test_a_candidate_needs_a_bundle() -> None:
    with pytest.raises(ValueError, match="bundle"):
        CandidateSettings.model_validate({})
    assert CandidatePlugin.settings_type is CandidateSettings
