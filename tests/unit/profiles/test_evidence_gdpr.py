"""GDPR: real steps that satisfy each control, and real steps that violate it."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import World

DAY_US = 86_400_000_000
SETTINGS = {
    "purposes": ["support", "billing"],
    "legal_effect": ["reject_loan"],
    "recipients": ["crm_*"],
    "keep_days": 400,
}
TOOLS = {
    "tools": {"look_up": {"risk": "read_only", "sink": "internal"}, "note": {"risk": "external_io", "sink": "internal"}}
}
LOOK: dict[str, Any] = {"kind": "tool", "tool": "look_up", "metadata": {"purpose": "support"}}
MAIL = "write to ada@example.com"


def protected(world: World) -> dict[str, Any]:
    """Return a configuration with all that the profile needs: payloads encrypted, and kept for a time."""
    key = world.folder / "wrapping.key"
    key.write_text(base64.b64encode(bytes(range(32))).decode(), "utf-8")
    key.chmod(0o600)
    ledger = {"encrypt": "run", "key_encryption_key": str(key), "retention": [{"keep": "400d"}]}
    return world.config({"use": "gdpr", **SETTINGS}, ledger=ledger, tools=TOOLS)


async def test_steps_under_the_profile_satisfy_every_control(world: World, judged: Any) -> None:
    from meshflow.profiles import find_pack
    from meshflow.profiles.report import Window, profile_report

    async with world.running(protected(world)) as runtime:
        masked = await world.act(runtime, {}, **LOOK, input={"note": MAIL})
        assert masked.output == {"note": "write to <EMAIL_ADDRESS>"}
        wrote = await world.act(runtime, {}, kind="tool", tool="note", metadata={"purpose": "billing"})
        assert wrote.ok, wrote.reason
        assert (await world.act(runtime, {}, node_id="crm_model", kind="model", metadata={"purpose": "support"})).ok
        assert (await world.approved(runtime, {}, action="reject_loan", metadata={"purpose": "support"})).ok
        ledger = runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
        now = time.time_ns() // 1_000
        report = await profile_report(ledger, find_pack("gdpr", SETTINGS, world.folder), Window.of(), now_us=now)
        states = judged.states(report)
        assert states.pop("GDPR Art. 5(1)(e)") == "not_exercised"  # nothing is old yet
        assert set(states.values()) == {"satisfied"}
        later = now + 401 * DAY_US
        plugin: Any = runtime.plugin("ledger")
        await ledger.apply_retention(plugin.retention_rules, now_us=later)
        report = await profile_report(ledger, find_pack("gdpr", SETTINGS, world.folder), Window.of(), now_us=later)
        assert judged.states(report)["GDPR Art. 5(1)(e)"] == "satisfied"


async def test_what_breaks_a_rule_is_refused(world: World) -> None:
    async with world.running(protected(world)) as runtime:
        for wrong in (
            {"metadata": {}}, {"metadata": {"purpose": "gossip"}}, {"run_id": "ada@example.com"},
            {"node_id": "elsewhere", "kind": "model", "tool": None}, {"input": {"to": "http://x.example"}},
        ):  # fmt: skip
            refused = await world.act(runtime, {}, **{**LOOK, **wrong})
            assert refused.code == "compliance_profile.denied", wrong


@pytest.mark.slow
async def test_each_control_is_violated_by_steps_that_the_profile_would_have_stopped(
    world: World, judged: Any, violations: Any
) -> None:
    found = violations("GDPR ")
    async with world.running(world.config(plugins=None, tools=TOOLS)) as runtime:
        found.by("Art. 32(1)(b)", await world.act(runtime, None, **LOOK))
    off: dict[str, Any] = {"sensitive_data_scan": {"mode": "disabled"}, "output_guardrails": {"mode": "disabled"}}
    async with world.running(world.config(tools=TOOLS, stages=off)) as runtime:
        found.by("Art. 25(1)", await world.act(runtime, {}, **LOOK))
        found.by("Art. 25(2)", await world.act(runtime, {}, **LOOK))
    allowing = {"presidio": {"entities": {"EMAIL_ADDRESS": "allow"}}}
    async with world.running(world.config(tools=TOOLS, plugins=allowing)) as runtime:
        found.by("Art. 5(1)(b)", await world.act(runtime, {}, **{**LOOK, "metadata": {"purpose": "gossip"}}))
        found.by("Art. 5(1)(c)", await world.act(runtime, {}, **LOOK, input={"note": MAIL}))
        found.by("Art. 5(1)(e)", await world.act(runtime, {}, **LOOK))
        found.by("Art. 17(1)", await world.act(runtime, {}, **LOOK, run_id="ada@example.com"))
        found.by("Art. 22(3)", await world.act(runtime, {}, action="reject_loan"))
        found.by("Art. 30(1)(b)", await world.act(runtime, {}, kind="tool", tool="look_up"))
        found.by("Art. 30(1)(d)", await world.act(runtime, {}, node_id="elsewhere", kind="model"))
        found.by("Art. 32(1)(a)", await world.act(runtime, {}, **LOOK, input={"to": "http://x.example"}))
        found.by("Art. 32(4)", await world.act(runtime, {"roles": []}, **LOOK))
    await world.kill_a_step()
    found.steps["GDPR Art. 5(2)"] = "killed"
    report = await world.report("gdpr", now_us=time.time_ns() // 1_000 + 500 * DAY_US, settings=SETTINGS)
    found.all_found_in(report)
    assert world.served("gdpr") - found.steps.keys() == {"GDPR Art. 5(1)(f)"}


async def test_a_ledger_without_signatures_violates_integrity(world: World, judged: Any) -> None:
    await world.leave_unsigned()
    assert judged.states(await world.report("gdpr"))["GDPR Art. 5(1)(f)"] == "violated"
