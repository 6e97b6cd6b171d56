"""NERC CIP: real steps that satisfy each control, and real steps that violate it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import World

SETTINGS = {
    "authorized_roles": ["operator"],
    "bcsi": ["read_diagram"],
    "bcsi_roles": ["engineer"],
    "destinations": ["vendor_mail"],
    "changes": ["set_relay"],
}
TOOLS = {
    "tools": {
        "read_alarm": {"risk": "read_only", "sink": "internal"},
        "read_diagram": {"risk": "read_only", "sink": "internal"},
        "set_relay": {"risk": "external_io", "sink": "internal"},
        "vendor_mail": {"risk": "external_io", "sink": "internal"},
        "other_mail": {"risk": "external_io", "sink": "internal"},
    }
}
OPERATOR, ENGINEER = {"roles": ["operator"]}, {"roles": ["operator", "engineer"]}
ALARM: dict[str, Any] = {"kind": "tool", "tool": "read_alarm"}
DIAGRAM: dict[str, Any] = {"kind": "tool", "tool": "read_diagram", "metadata": {"classification": "bcsi"}}
MARKED = {"classification": "bcsi"}


def guarded(world: World) -> dict[str, Any]:
    (world.folder / "revoked.json").write_text('{"tokens": [], "subjects": ["gone"]}', "utf-8")
    identity = {"identity": {"revocation_file": str(world.folder / "revoked.json")}}
    return world.config({"use": "nerc-cip", **SETTINGS}, tools=TOOLS, plugins=identity)


async def test_steps_under_the_profile_satisfy_every_control(world: World, judged: Any) -> None:
    async with world.running(guarded(world)) as runtime:
        assert (await world.act(runtime, OPERATOR, **ALARM)).ok
        assert (await world.act(runtime, ENGINEER, **DIAGRAM)).ok
        sent = await world.act(runtime, ENGINEER, kind="http", tool="vendor_mail", metadata=MARKED)
        assert sent.ok, sent.reason
        change: dict[str, Any] = {"kind": "tool", "tool": "set_relay", "metadata": {"change_ticket": "CHG-1"}}
        assert (await world.approved(runtime, OPERATOR, **change)).ok
        revoked = await world.act(runtime, {**OPERATOR, "sub": "gone"}, **ALARM)
        assert revoked.code == "identity_verification.revoked"
    report = await world.report("nerc-cip", settings=SETTINGS)
    assert set(judged.states(report).values()) == {"satisfied"}


async def test_what_the_rules_refuse_violates_nothing(world: World, judged: Any) -> None:
    async with world.running(guarded(world)) as runtime:
        for claims, step in (
            ({"roles": ["visitor"]}, ALARM), (OPERATOR, DIAGRAM), (ENGINEER, {**DIAGRAM, "metadata": {}}),
            (ENGINEER, {"kind": "http", "tool": "other_mail", "metadata": MARKED}),
            (OPERATOR, {"kind": "tool", "tool": "set_relay"}), ({**OPERATOR, "sub": "guest"}, ALARM),
        ):  # fmt: skip
            assert (await world.act(runtime, claims, **step)).code == "compliance_profile.denied", step
    assert "violated" not in judged.states(await world.report("nerc-cip", settings=SETTINGS)).values()


@pytest.mark.slow
async def test_each_control_is_violated_by_steps_that_the_profile_would_have_stopped(
    world: World, judged: Any, violations: Any
) -> None:
    found = violations("CIP-")
    async with world.running(world.config(plugins=None, tools=TOOLS)) as runtime:
        found.by("007-6 R5 Part 5.1", await world.act(runtime, None, **ALARM))
    async with world.running(world.config(tools=TOOLS)) as runtime:
        found.by("004-7 R4 Part 4.1", await world.act(runtime, {"roles": ["visitor"]}, **ALARM))
        found.by("004-7 R6 Part 6.1", await world.act(runtime, OPERATOR, **DIAGRAM))
        found.by("007-6 R5 Part 5.3", await world.act(runtime, {**OPERATOR, "sub": "Guest"}, **ALARM))
        found.by("010-4 R1 Part 1.2", await world.act(runtime, OPERATOR, kind="tool", tool="set_relay"))
        found.by("011-3 R1 Part 1.1", await world.act(runtime, ENGINEER, kind="tool", tool="read_diagram"))
        leaving = await world.act(runtime, ENGINEER, kind="http", tool="other_mail", metadata=MARKED)
        found.by("011-3 R1 Part 1.2", leaving)
    await world.kill_a_step()
    found.steps["CIP-007-6 R4 Part 4.1"] = "killed"
    report = await world.report("nerc-cip", now_us=time.time_ns() // 1_000 + 7_200_000_000, settings=SETTINGS)
    found.all_found_in(report)
    assert world.served("nerc-cip") - found.steps.keys() == {"CIP-007-6 R4 Part 4.3"}


async def test_erasing_a_young_record_by_a_retention_rule_violates_retention(world: World, judged: Any) -> None:
    async with world.running(world.config()) as runtime:
        await world.act(runtime, {})
    await world.expire()
    assert judged.states(await world.report("nerc-cip"))["CIP-007-6 R4 Part 4.3"] == "violated"
