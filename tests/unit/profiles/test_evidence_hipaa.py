"""HIPAA: real steps that satisfy each control, and real steps that violate it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meshflow import ReplayLedger
from meshflow.profiles import find_pack

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import World

SETTINGS = {
    "allowed_roles": ["nurse", "surgeon"],
    "treatment_roles": ["surgeon"],
    "emergency_roles": ["surgeon"],
    "business_associates": ["claims_*"],
    "supervised": ["export_chart"],
}
SSN, ADDRESS = "Jo Doe, social security number 536-90-4399", "seen at 192.0.2.14"
NURSE, SURGEON = {"roles": ["nurse"]}, {"roles": ["surgeon"]}
CHART: dict[str, Any] = {"kind": "tool", "tool": "read_chart"}
TOOLS = {
    "tools": {
        "read_chart": {"risk": "read_only", "sink": "internal"},
        "export_chart": {"risk": "external_io", "sink": "internal"},
    }
}


async def test_steps_under_the_profile_satisfy_every_control(world: World, judged: Any) -> None:
    async with world.running(world.config({"use": "hipaa", **SETTINGS}, tools=TOOLS)) as runtime:
        masked = await world.act(runtime, NURSE, **CHART, input={"note": SSN})
        assert masked.output == {"note": "Jo Doe, social security number <US_SSN>"}
        assert (await world.act(runtime, NURSE, node_id="claims_api", kind="model", input=SSN)).ok
        assert (await world.approved(runtime, NURSE, kind="tool", tool="export_chart")).ok
        seen = await world.act(runtime, SURGEON, **CHART, input={"note": ADDRESS}, metadata={"purpose": "treatment"})
        assert seen.output == {"note": ADDRESS}
        urgent = {"purpose": "emergency", "emergency_reason": "cardiac arrest"}
        assert (await world.act(runtime, SURGEON, kind="tool", tool="export_chart", metadata=urgent)).ok
    report = await world.report("hipaa", settings=SETTINGS)
    assert set(judged.states(report).values()) == {"satisfied"}
    assert report["records"]["steps_under_profile"] == report["records"]["steps"] == 6


async def test_what_the_rules_refuse_violates_nothing(world: World, judged: Any) -> None:
    async with world.running(world.config({"use": "hipaa", **SETTINGS}, tools=TOOLS)) as runtime:
        refused = [
            await world.act(runtime, {"roles": ["clerk"]}, **CHART),
            await world.act(runtime, {"sub": "admin"}, **CHART),
            await world.act(runtime, NURSE, node_id="elsewhere", kind="model"),
            await world.act(runtime, NURSE, **CHART, input={"to": "http://lab.example"}),
            await world.act(runtime, SURGEON, **CHART, metadata={"purpose": "emergency"}),
        ]
        assert [outcome.code for outcome in refused] == ["compliance_profile.denied"] * 5
    report = await world.report("hipaa", settings=SETTINGS)
    assert "violated" not in judged.states(report).values()


@pytest.mark.slow
async def test_each_control_is_violated_by_steps_that_the_profile_would_have_stopped(world: World, judged: Any) -> None:
    violated: dict[str, str] = {}

    def by(control: str, outcome: Any) -> None:
        assert outcome.record.executed, (control, outcome.code)
        violated[f"45 CFR {control}"] = outcome.step_id

    stages = ("identity_verification", "tenant_scoping", "policy_evaluation")
    off = {stage: {"mode": "disabled", "unsafe": True} for stage in stages}
    async with world.running(world.config(plugins=None, tools=TOOLS, stages=off)) as runtime:
        by("164.308(a)(1)(ii)(D)", await world.act(runtime, None, **CHART))
    async with world.running(world.config(plugins=None, tools=TOOLS)) as runtime:
        by("164.312(d)", await world.act(runtime, None, **CHART))
    async with world.running(world.config(tools=TOOLS)) as runtime:
        by("164.308(a)(3)(ii)(A)", await world.act(runtime, NURSE, kind="tool", tool="export_chart", risk="internal"))
        by("164.308(a)(4)(ii)(B)", await world.act(runtime, {"roles": ["clerk"]}, **CHART))
        by("164.308(b)(1)", await world.act(runtime, NURSE, node_id="elsewhere", kind="model"))
        by("164.312(a)(1)", await world.act(runtime, {"roles": []}, **CHART))
        by("164.312(a)(2)(i)", await world.act(runtime, {"sub": "Admin", "roles": ["nurse"]}, **CHART))
        by("164.312(a)(2)(ii)", await world.act(runtime, NURSE, **CHART, metadata={"purpose": "emergency"}))
        by("164.312(e)(1)", await world.act(runtime, NURSE, **CHART, input={"to": ["http://lab.example"]}))
        by("164.502(b)", await world.act(runtime, NURSE, **CHART, input={"note": ADDRESS}))
        by("164.514(d)", await world.act(runtime, NURSE, **CHART, input={"note": ADDRESS}))
    await world.kill_a_step()
    violated["45 CFR 164.312(b)"] = "killed"
    later = 2 * 3_600_000_000
    report = await world.report("hipaa", now_us=later + _now(), settings=SETTINGS)
    for control, step_id in violated.items():
        assert step_id in judged.steps_that(report, control, "violated"), control
    served = {control.id for control in find_pack("hipaa", {}, world.folder).manifest.controls}
    assert served - violated.keys() == {"45 CFR 164.312(c)(1)", "45 CFR 164.316(b)(2)(i)"}  # the two tests below


def _now() -> int:
    import time

    return time.time_ns() // 1_000


async def test_a_ledger_without_signatures_violates_integrity(world: World, judged: Any, tmp_path: Path) -> None:
    ledger = ReplayLedger(world.ledger, key=None)
    async with ledger, world.running(world.config(ledger=None, tools=TOOLS), ledger=ledger) as runtime:
        await world.act(runtime, NURSE, **CHART)
    report = await world.report("hipaa")
    assert judged.states(report)["45 CFR 164.312(c)(1)"] == "violated"
    assert report["ledger"]["checkpoint"] is None


async def test_erasing_young_records_by_a_retention_rule_violates_the_time_limit(world: World, judged: Any) -> None:
    async with world.running(world.config(tools=TOOLS)) as runtime:
        outcome = await world.act(runtime, NURSE, **CHART)
    await world.expire()
    report = await world.report("hipaa")
    assert judged.states(report)["45 CFR 164.316(b)(2)(i)"] == "violated"
    assert outcome.step_id in judged.steps_that(report, "45 CFR 164.316(b)(2)(i)", "violated")
    # Who acted is erased with it, so whether the principal was verified cannot be told any more.
    assert judged.steps_that(report, "45 CFR 164.312(d)", "undecidable") == {outcome.step_id}
    assert judged.states(report)["45 CFR 164.312(d)"] == "not_exercised"
