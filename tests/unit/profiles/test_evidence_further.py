"""SOC 2, NIST AI RMF and ISO 42001: real steps that satisfy each control, and real steps that violate it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import World

DAY_US = 86_400_000_000
TOOLS = {
    "tools": {
        "look_up": {"risk": "read_only", "sink": "internal"},
        "note": {"risk": "external_io", "sink": "internal"},
        "deploy": {"risk": "internal"},
    }
}
LOOK: dict[str, Any] = {"kind": "tool", "tool": "look_up", "metadata": {"purpose": "support"}}
NOTE: dict[str, Any] = {"kind": "tool", "tool": "note", "metadata": {"purpose": "support"}}
MODEL: dict[str, Any] = {"node_id": "model_a", "kind": "model", "metadata": {"purpose": "support"}}
OFF = {"mode": "disabled", "unsafe": True}
SOC2 = {"recipients": ["model_*"], "changes": ["deploy"], "keep_days": 400}
NIST = {"supervised": ["note"], "intended_purposes": ["support"]}
ISO = {**NIST, "suppliers": ["model_*"]}
SECRET = "my key is AKIA" + "IOSFODNN7EXAMPLE"
MAIL = "write to ada@example.com"


async def test_soc2_is_satisfied_by_steps_under_the_profile(world: World, judged: Any) -> None:
    kept = {"retention": [{"keep": "400d"}]}
    async with world.running(world.config({"use": "soc2", **SOC2}, tools=TOOLS, ledger=kept)) as runtime:
        for step in (LOOK, NOTE, MODEL):
            assert (await world.act(runtime, {}, **step)).ok
        change = {"kind": "tool", "tool": "deploy", "metadata": {"change_ticket": "C-1"}}
        assert (await world.approved(runtime, {}, **change)).ok
        states = judged.states(await world.report("soc2", settings=SOC2))
        assert states.pop("TSC C1.2") == "not_exercised"
        assert set(states.values()) == {"satisfied"}
        later = time.time_ns() // 1_000 + 401 * DAY_US
        plugin: Any = runtime.plugin("ledger")
        await plugin.ledger.apply_retention(plugin.retention_rules, now_us=later)
        assert judged.states(await world.report("soc2", now_us=later, settings=SOC2))["TSC C1.2"] == "satisfied"


@pytest.mark.slow
async def test_soc2_is_violated_by_steps_that_the_profile_would_have_stopped(
    world: World, judged: Any, violations: Any
) -> None:
    found = violations("TSC ")
    async with world.running(world.config(plugins=None, tools=TOOLS)) as runtime:
        found.by("CC6.1", await world.act(runtime, None, **LOOK))
    async with world.running(world.config(tools=TOOLS, stages={"input_guardrails": {"mode": "disabled"}})) as runtime:
        found.by("CC6.6", await world.act(runtime, {}, **LOOK))
    async with world.running(
        world.config(tools=TOOLS, plugins={"presidio": {"entities": {"SECRET": "allow"}}})
    ) as runtime:
        found.by("CC6.3", await world.act(runtime, {"roles": []}, **LOOK))
        found.by("CC6.7", await world.act(runtime, {}, node_id="elsewhere", kind="model"))
        found.by("CC8.1", await world.act(runtime, {}, kind="tool", tool="deploy"))
        found.by("C1.2", await world.act(runtime, {}, **LOOK))
        found.by("C1.1", await world.act(runtime, {}, **LOOK, input={"note": SECRET}, run_id="run-2"))
    await world.kill_a_step()
    found.steps["TSC CC7.2"] = "killed"
    report = await world.report("soc2", now_us=time.time_ns() // 1_000 + 500 * DAY_US, settings=SOC2)
    found.all_found_in(report)
    assert world.served("soc2") == found.steps.keys()


@pytest.mark.parametrize(("name", "settings"), [("nist-ai-rmf", NIST), ("iso-42001", ISO)])
async def test_the_frameworks_for_ai_are_satisfied_by_steps_under_the_profile(
    world: World, judged: Any, name: str, settings: dict[str, Any]
) -> None:
    async with world.running(world.config({"use": name, **settings}, tools=TOOLS)) as runtime:
        for step in (LOOK, MODEL):
            assert (await world.act(runtime, {}, **step)).ok
        masked = await world.act(runtime, {}, **LOOK, input={"note": MAIL})
        assert masked.output == {"note": "write to <EMAIL_ADDRESS>"}
        assert (await world.approved(runtime, {}, **NOTE)).ok
        ledger = runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
        await ledger.record_control("pause", {"tool": "mail"}, reason="a drill", authority="oversight board")
    assert set(judged.states(await world.report(name, settings=settings)).values()) == {"satisfied"}


@pytest.mark.parametrize(
    ("name", "settings", "controls"),
    [
        (
            "nist-ai-rmf", NIST,
            {
                "roles": "GOVERN 2.1", "open": "GOVERN 1.4", "oversight": "MAP 3.5", "killed": "MEASURE 2.4",
                "unguarded": "MEASURE 2.7", "shared": "MEASURE 2.8", "mail": "MEASURE 2.10", "risk": "MANAGE 1.3",
                "purpose": "MANAGE 2.4", "unsigned": "MANAGE 4.1",
            },
        ),
        (
            "iso-42001", ISO,
            {
                "roles": "A.3.2", "open": "A.9.2", "oversight": "A.9.2", "killed": "A.6.2.6", "shared": "A.6.2.8",
                "purpose": "A.9.4", "outside": "A.10.3", "unsigned": "A.6.2.8",
            },
        ),
    ],
)  # fmt: skip
@pytest.mark.slow
async def test_the_frameworks_for_ai_are_violated_by_steps_that_the_profile_would_have_stopped(
    world: World, judged: Any, name: str, settings: dict[str, Any], controls: dict[str, str]
) -> None:
    done: dict[str, Any] = {}
    off: dict[str, Any] = {name: {"mode": "disabled"} for name in ("risk_classification", "input_guardrails")}
    async with world.running(world.config(tools=TOOLS, stages={**off, "tool_permission": OFF})) as runtime:
        done["open"] = done["risk"] = done["unguarded"] = await world.act(runtime, {}, **LOOK)
    allowing = {"presidio": {"entities": {"EMAIL_ADDRESS": "allow"}}}
    async with world.running(world.config(tools=TOOLS, plugins=allowing)) as runtime:
        done["roles"] = await world.act(runtime, {"roles": []}, **LOOK)
        done["oversight"] = await world.act(runtime, {}, **NOTE)
        done["shared"] = await world.act(runtime, {"sub": "Guest"}, **LOOK)
        done["mail"] = await world.act(runtime, {}, **LOOK, input={"note": MAIL})
        done["purpose"] = await world.act(runtime, {}, **{**LOOK, "metadata": {"purpose": "gossip"}})
        done["outside"] = await world.act(runtime, {}, node_id="elsewhere", kind="model", run_id="run-2")
    await world.kill_a_step()
    report = await world.report(name, now_us=time.time_ns() // 1_000 + 7_200_000_000, settings=settings)
    prefix = "NIST AI RMF " if name.startswith("nist") else "ISO/IEC 42001 "
    for what, control in controls.items():
        if what == "unsigned":
            continue
        assert what == "killed" or done[what].record.executed, (what, done[what].reason)
        step_id = "killed" if what == "killed" else done[what].step_id
        assert step_id in judged.steps_that(report, prefix + control, "violated"), what
    assert world.served(name) == {prefix + control for control in controls.values()}
    world.ledger = world.folder / "unsigned.db"
    await world.leave_unsigned()
    states = judged.states(await world.report(name, settings=settings))
    assert states[prefix + controls["unsigned"]] == "violated"
