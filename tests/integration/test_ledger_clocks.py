"""Clocks that step back, and hosts whose clocks are apart: what follows the clock, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshflow import NodeInput, StepRuntime
from meshflow.clock import ManualClock
from meshflow.ledger import ReplayLedger
from meshflow.ledger.approvals import ApprovalRefusedError
from meshflow.ledger.retention import RetentionRule

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
NOON = 1_700_000_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def step(ledger: ReplayLedger, run: str, name: str, **more: Any) -> None:
    await ledger.write({"run_id": run, "node_id": "n", "step_id": name, "input_task": "text", **more})


async def test_two_hosts_hours_apart_keep_one_order_and_one_proof(path: Path) -> None:
    """The order is that of the commits. A time is what the host that wrote the entry believed."""
    ahead, behind = ManualClock(NOON + 5 * HOUR_US), ManualClock(NOON - 5 * HOUR_US)
    async with ReplayLedger(path, clock=ahead) as one, ReplayLedger(path, clock=behind) as other:
        for number in range(6):
            ledger = (one, other)[number % 2]
            await step(ledger, "shared", f"s{number}")
            await step(ledger, f"run-{number}", "first")
            (ahead, behind)[number % 2].advance(1)
        for ledger in (one, other):
            steps = await ledger.get_run("shared")
            assert [found["step_id"] for found in steps] == [f"s{number}" for number in range(6)]
            assert [found["timestamp"] for found in steps] != sorted(found["timestamp"] for found in steps)
            # The newest run is the one begun last, whatever its clock said.
            assert await ledger.list_runs() == ["run-5", "run-4", "run-3", "run-2", "run-1", "run-0", "shared"]
            result = await ledger.verify_ledger(since=await ledger.checkpoint())
            assert (result["valid"], result["errors"]) == (True, [])
        span = (await one.run_summary("shared"))["timestamps"]
        assert span["start"] < span["end"]


async def test_the_doctor_says_that_a_clock_is_behind_what_is_on_record(path: Path) -> None:
    clock = ManualClock(NOON)
    async with ReplayLedger(path, clock=clock) as ledger:
        await step(ledger, "r", "s1")
        clock.set_wall(NOON - HOUR_US)
        (found,) = [one for one in await ledger.health() if one.check == "clock"]
        assert (found.level, "3600 s ahead" in found.found) == ("warning", True)
        await step(ledger, "r", "s2")  # written all the same, and then newest
        clock.set_wall(NOON + 1)
        (found,) = [one for one in await ledger.health() if one.check == "clock"]
        assert found.level == "ok"


async def test_retention_counts_from_the_writers_clock_to_the_sweepers(path: Path) -> None:
    """A host that was ahead when it wrote keeps longer; one that is ahead when it sweeps erases earlier."""
    rule = [RetentionRule(keep_us=30 * DAY_US)]
    right, ahead = ManualClock(NOON), ManualClock(NOON + 2 * DAY_US)
    async with ReplayLedger(path, clock=right) as one, ReplayLedger(path, clock=ahead) as other:
        await step(one, "right", "s")
        await step(other, "ahead", "s")
        right.set_wall(NOON + 31 * DAY_US)
        assert list((await one.apply_retention(rule)).runs) == ["right"]
        right.set_wall(NOON - DAY_US)  # a clock that steps back erases nothing that it should keep
        assert (await one.apply_retention(rule)).erased == 0
        ahead.set_wall(NOON + 33 * DAY_US)
        assert list((await other.apply_retention(rule)).runs) == ["ahead"]
        assert (await one.verify_ledger())["valid"]
        for run in ("right", "ahead"):
            (stone,) = await one.entries(run, "erasure")
            assert stone["authority"] == "retention policy"


async def asked(path: Path, clock: ManualClock) -> tuple[StepRuntime, ReplayLedger, NodeInput]:
    ledger = ReplayLedger(path, clock=clock)
    runtime = StepRuntime(
        ledger=ledger, clock=clock,
        config={"approvals": {"expires_s": 3_600}, "tools": {"tools": {"pay": {"risk": "irreversible"}}}},
    )  # fmt: skip
    node = NodeInput(
        node_id="pay", kind="tool", tool="pay", step_id="s1", run_id="r", input={"cents": 5},
        handler=lambda value: "paid",
    )  # fmt: skip
    return runtime, ledger, node


async def test_an_approval_expires_by_the_clock_of_whoever_decides_and_of_whoever_resumes(path: Path) -> None:
    clock = ManualClock(NOON)
    runtime, ledger, node = await asked(path, clock)
    async with runtime:
        outcome = await runtime.run(node)
        assert outcome.approval_id is not None
        late = ManualClock(NOON + 2 * HOUR_US)
        async with ReplayLedger(path, clock=late) as elsewhere:
            (pending,) = await elsewhere.pending_approvals()
            assert pending["expired"]
            with pytest.raises(ApprovalRefusedError, match="expired at"):
                await elsewhere.decide_approval(outcome.approval_id, approve=True, approver="ada")
            # A clock that is set back opens the question again: whoever sets clocks decides when it closes.
            late.set_wall(NOON)
            await elsewhere.decide_approval(outcome.approval_id, approve=True, approver="ada")
        clock.set_wall(NOON + 2 * HOUR_US)
        again = await runtime.run(replace(node, resume=True))
        assert (again.output, again.code) == (None, "approval.expired")
        assert (await ledger.verify_chain("r"))["valid"]
    await ledger.aclose()
