"""The pack is sound, and a ledger can satisfy and violate each of its controls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.profiles import load_pack
from meshflow.profiles.check import check_pack
from meshflow.profiles.report import Window, profile_report

FOLDER = Path(__file__).parents[1] / "src" / "acme_banking_profile"
CONFIG: dict[str, Any] = {"tools": {"tools": {"pay_out": {"risk": "external_io", "sink": "internal"}}}}


def test_the_pack_is_sound() -> None:
    found = check_pack(load_pack(FOLDER, {}))
    assert (found.problems, found.controls) == ([], 3)


def payment(step_id: str, **more: Any) -> NodeInput:
    given = {"cents": 500, "reference": "INV-7", **more.pop("arguments", {})}
    return NodeInput(node_id="pay", kind="tool", tool="pay_out", input=given, handler=lambda value: "paid",
                     run_id="r", step_id=step_id, **more)  # fmt: skip


async def states(path: Path) -> dict[str, str]:
    async with ReplayLedger(path) as ledger:
        report = await profile_report(ledger, load_pack(FOLDER, {}), Window.of(), now_us=time.time_ns() // 1_000)
    return {control["id"]: control["status"] for control in report["controls"]}


async def test_payments_under_the_profile_satisfy_it(tmp_path: Path) -> None:
    config = {**CONFIG, "profiles": [str(FOLDER)], "ledger": {"path": str(tmp_path / "runs.db")}}
    async with StepRuntime(config=config) as runtime:
        assert (await runtime.run(payment("big", arguments={"cents": 10**9}))).code == "compliance_profile.denied"
        asked = await runtime.run(payment("ok"))
        assert asked.approval_id is not None
        ledger = runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
        await ledger.decide_approval(asked.approval_id, approve=True, approver="mara")
        assert (await runtime.run(payment("ok", resume=True))).output == "paid"
    assert set((await states(tmp_path / "runs.db")).values()) == {"satisfied"}


async def test_payments_without_it_violate_it(tmp_path: Path) -> None:
    async with StepRuntime(config={**CONFIG, "ledger": {"path": str(tmp_path / "runs.db")}}) as runtime:
        step = NodeInput(node_id="pay", kind="tool", tool="pay_out", input={"cents": 10**9}, handler=lambda _: "paid")
        assert (await runtime.run(step)).ok
    assert set((await states(tmp_path / "runs.db")).values()) == {"violated"}
