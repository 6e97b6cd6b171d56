"""SOX: real steps that satisfy each control, and real steps that violate it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import World

SETTINGS = {
    "financial": ["post_journal"],
    "changes": ["deploy"],
    "approvers": ["Mara"],
    "allowed_roles": ["accountant", "engineer"],
    "separate_roles": ["preparer+approver"],
}
TOOLS = {
    "tools": {"post_journal": {"risk": "external_io", "sink": "internal"}, "deploy": {"risk": "internal"}},
    "strict": False,
}
ACCOUNTANT, ENGINEER = {"sub": "ana", "roles": ["accountant"]}, {"sub": "bo", "roles": ["engineer"]}
POST: dict[str, Any] = {"kind": "tool", "tool": "post_journal", "input": {"cents": 500}}
DEPLOY: dict[str, Any] = {"kind": "tool", "tool": "deploy", "metadata": {"change_ticket": "CHG-7"}}


async def test_steps_under_the_profile_satisfy_every_control(world: World, judged: Any) -> None:
    async with world.running(world.config({"use": "sox", **SETTINGS}, tools=TOOLS)) as runtime:
        asked = await world.act(runtime, ACCOUNTANT, **POST)
        assert (asked.status.value, asked.code) == ("paused", "compliance_profile.escalated")
        assert (await world.approved(runtime, ACCOUNTANT, **POST)).ok
        assert (await world.approved(runtime, ENGINEER, **DEPLOY)).ok
    report = await world.report("sox", settings=SETTINGS)
    assert set(judged.states(report).values()) == {"satisfied"}


async def test_what_the_rules_refuse_violates_nothing(world: World, judged: Any) -> None:
    async with world.running(world.config({"use": "sox", **SETTINGS}, tools=TOOLS)) as runtime:
        by_another = await world.approved(runtime, ACCOUNTANT, approver="zed", **POST)
        assert "15 U.S.C. 78m(b)(2)(B)(i)" in by_another.reason
        ticketless = await world.act(runtime, ENGINEER, kind="tool", tool="deploy")
        assert "COSO 2013 Principle 11" in ticketless.reason
        both = await world.act(runtime, {"sub": "ana", "roles": ["accountant", "preparer", "approver"]}, **POST)
        assert "COSO 2013 Principle 10" in both.reason
        roleless = await world.act(runtime, {"sub": "ana", "roles": ["clerk"]}, **POST)
        assert "15 U.S.C. 78m(b)(2)(B)(iii)" in roleless.reason
    assert "violated" not in judged.states(await world.report("sox", settings=SETTINGS)).values()


@pytest.mark.slow
async def test_each_control_is_violated_by_steps_that_the_profile_would_have_stopped(
    world: World, judged: Any, violations: Any
) -> None:
    found = violations("")
    async with world.running(world.config(plugins=None, tools=TOOLS)) as runtime:
        found.by("17 CFR 240.13a-15(f)(3)", await world.act(runtime, None))
    async with world.running(world.config(tools=TOOLS)) as runtime:
        found.by("17 CFR 240.13a-15(f)(1)", await world.act(runtime, {"sub": "Shared"}))
        found.by("17 CFR 240.13a-15(f)(2)", await world.act(runtime, ACCOUNTANT, **POST))
        found.by("15 U.S.C. 78m(b)(2)(B)(iii)", await world.act(runtime, {"sub": "ana", "roles": []}, **POST))
        found.by("COSO 2013 Principle 10", await world.act(runtime, ACCOUNTANT, **POST))
        found.by("COSO 2013 Principle 11", await world.act(runtime, ENGINEER, kind="tool", tool="deploy"))
        zed = await world.approved(runtime, ACCOUNTANT, approver="zed", **POST, risk="irreversible")
        found.by("15 U.S.C. 78m(b)(2)(B)(i)", zed)
    report = await world.report("sox", settings=SETTINGS)
    found.all_found_in(report)
    assert world.served("sox") - found.steps.keys() == {"18 U.S.C. 1519"}
    await world.kill_a_step()
    report = await world.report("sox", now_us=time.time_ns() // 1_000 + 7_200_000_000, settings=SETTINGS)
    assert "killed" in judged.steps_that(report, "17 CFR 240.13a-15(f)(1)", "violated")


async def test_a_ledger_without_signatures_could_hide_an_alteration(world: World, judged: Any) -> None:
    await world.leave_unsigned()
    assert judged.states(await world.report("sox"))["18 U.S.C. 1519"] == "violated"
