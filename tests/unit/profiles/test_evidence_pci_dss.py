"""PCI DSS: real steps that satisfy each control, and real steps that violate it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import World

SETTINGS = {"pan_roles": ["disputes"]}
TOOLS = {
    "tools": {
        "look_up": {"risk": "read_only", "sink": "internal"},
        "charge": {"risk": "external_io", "sink": "internal"},
    }
}
PAN = "card 4111 1111 1111 1111"
LOOK: dict[str, Any] = {"kind": "tool", "tool": "look_up"}
OFF = {"mode": "disabled", "unsafe": True}


async def test_steps_under_the_profile_satisfy_every_control(world: World, judged: Any) -> None:
    async with world.running(world.config({"use": "pci-dss", **SETTINGS}, tools=TOOLS)) as runtime:
        masked = await world.act(runtime, {}, **LOOK, input={"note": PAN})
        assert masked.output == {"note": "card <CREDIT_CARD>"}
        assert (await world.act(runtime, {}, kind="tool", tool="charge")).ok
    assert set(judged.states(await world.report("pci-dss", settings=SETTINGS)).values()) == {"satisfied"}
    async with world.running(
        world.config(
            {"use": "pci-dss", "allowed_roles": ["nurse"], **SETTINGS},
            tools=TOOLS,
            plugins={"presidio": {"entities": {"CREDIT_CARD": "allow"}}},
        )
    ) as runtime:
        disputing = await world.act(runtime, {"roles": ["nurse", "disputes"]}, **LOOK, input={"note": PAN})
        assert disputing.output == {"note": PAN}
        assert disputing.record.input == {"note": "card <CREDIT_CARD>"}
        masked = await world.act(runtime, {}, **LOOK, input={"note": PAN})
        assert masked.output == {"note": "card <CREDIT_CARD>"}
    report = await world.report("pci-dss", settings={**SETTINGS, "allowed_roles": ["nurse"]})
    assert set(judged.states(report).values()) == {"satisfied"}


async def test_what_the_rules_refuse_violates_nothing(world: World, judged: Any) -> None:
    async with world.running(world.config({"use": "pci-dss", **SETTINGS}, tools=TOOLS)) as runtime:
        for claims, step in (
            ({}, {**LOOK, "input": {"card": {"cvv": "123"}}}), ({"sub": "root"}, LOOK), ({"roles": []}, LOOK),
            ({}, {**LOOK, "input": {"to": "http://x.example"}}),
        ):  # fmt: skip
            assert (await world.act(runtime, claims, **step)).code == "compliance_profile.denied"
        undeclared = await world.act(runtime, {}, kind="tool", tool="wipe")
        assert undeclared.code == "tool_permission.unknown_tool"
    assert "violated" not in judged.states(await world.report("pci-dss", settings=SETTINGS)).values()


@pytest.mark.slow
async def test_each_control_is_violated_by_steps_that_the_profile_would_have_stopped(
    world: World, judged: Any, violations: Any
) -> None:
    found = violations("PCI DSS ")
    async with world.running(world.config(plugins=None, tools=TOOLS)) as runtime:
        found.by("8.3.1", await world.act(runtime, None, **LOOK))
    nobody = dict.fromkeys(("identity_verification", "tenant_scoping", "policy_evaluation"), OFF)
    async with world.running(world.config(plugins=None, tools=TOOLS, stages=nobody)) as runtime:
        found.by("8.2.1", await world.act(runtime, None, **LOOK))
        found.by("10.2.2", await world.act(runtime, None, **LOOK))
    open_door: dict[str, Any] = {"tool_permission": OFF, "sensitive_data_scan": {"mode": "disabled"}}
    async with world.running(world.config(stages=open_door, tools=None)) as runtime:
        found.by("7.3.3", await world.act(runtime, {}, **LOOK))
        found.by("3.5.1", await world.act(runtime, {}, **LOOK))
    allowing = {"presidio": {"entities": {"CREDIT_CARD": "allow"}}}
    lax = {**TOOLS, "strict": False}
    async with world.running(world.config(tools=lax, plugins=allowing)) as runtime:
        found.by("3.3.1", await world.act(runtime, {}, **LOOK, input={"card": [{"CVV": "123"}]}))
        found.by("3.4.1", await world.act(runtime, {}, **LOOK, input={"note": PAN}))
        found.by("4.2.1", await world.act(runtime, {}, **LOOK, input={"to": "ftp://x.example"}))
        found.by("7.2.2", await world.act(runtime, {"roles": []}, **LOOK))
        found.by("7.2.5", await world.act(runtime, {}, kind="tool", tool="read_anything", run_id="run-2"))
        found.by("8.2.2", await world.act(runtime, {"sub": "Root"}, **LOOK))
    await world.kill_a_step()
    found.steps["PCI DSS 10.2.1.1"] = "killed"
    report = await world.report("pci-dss", now_us=time.time_ns() // 1_000 + 7_200_000_000, settings=SETTINGS)
    found.all_found_in(report)
    assert world.served("pci-dss") - found.steps.keys() == {"PCI DSS 10.3.4", "PCI DSS 10.5.1"}


async def test_a_ledger_without_signatures_violates_change_detection(world: World, judged: Any) -> None:
    await world.leave_unsigned()
    assert judged.states(await world.report("pci-dss"))["PCI DSS 10.3.4"] == "violated"


async def test_erasing_a_young_record_by_a_retention_rule_violates_retention(world: World, judged: Any) -> None:
    async with world.running(world.config()) as runtime:
        await world.act(runtime, {})
    await world.expire()
    assert judged.states(await world.report("pci-dss"))["PCI DSS 10.5.1"] == "violated"
