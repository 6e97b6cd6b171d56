"""kill -9 at chosen points, in the gates too: a run goes on, repeats nothing that is finished, and hides nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger

# The process counts every stage of every step, before and after it, and every call; at the number asked for it is gone.
PROGRAM = """
import asyncio, json, os, signal, sys
from pathlib import Path
from meshflow import ReplayLedger, StepRuntime, WorkflowDefinition, current_step
from meshflow.plugin import NoSettings, Plugin, hookimpl
from meshflow.workflow import Registry

folder, deadline, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "fails"
passed = 0


def point():
    global passed
    passed += 1
    if passed == deadline:
        os.kill(os.getpid(), signal.SIGKILL)


class Points(Plugin[NoSettings]):
    settings_type = NoSettings

    @hookimpl
    def wrap_stage(self, stage, call_next):
        async def call(*args):
            point()
            answer = await call_next(*args)
            point()
            return answer

        return call

    @hookimpl
    async def record_sla(self, context, record):
        return None


registry = Registry()


def effect(name):
    async def call(given=None):
        point()
        with open(folder / "effects", "a") as file:
            file.write(f"{name} {current_step().step.step_id}\\n")
        point()
        if name == "last" and fails:
            raise RuntimeError("no")
        return name

    registry.function(call, name=name)


for name in ("book", "unbook", "item", "unitem", "inner", "pay", "last"):
    effect(name)


async def main():
    wf = WorkflowDefinition.from_yaml(folder / "flow.yaml")
    async with ReplayLedger(folder / "ledger.db") as ledger:
        begun = await ledger.get_run("r") or await ledger.unfinished("r")
        stages = {"sla_record": {"use": ["sla", "points"]}}
        points = {"points": Points(NoSettings())}
        async with StepRuntime(ledger=ledger, plugins=points, config={"stages": stages}) as runtime:
            given = {"runtime": runtime, "registry": registry}
            ask = (lambda: wf.resume("r", **given)) if begun else (lambda: wf.run([1, 2], run_id="r", **given))
            result = await ask()
            while result.status == "paused":
                for approval in result.approvals:
                    await ledger.decide_approval(approval, approve=True, approver="grace")
                result = await wf.resume("r", **given)
            print(json.dumps({"points": passed} | result.to_dict()))


asyncio.run(main())
"""
FLOW = """\
nodes:
  book: {kind: python, call: book, idempotent: true, compensate: {kind: python, call: unbook, idempotent: true}}
  each:
    kind: map
    over: ${{ input }}
    do:
      {kind: python, call: item, idempotent: true, compensate: {kind: python, call: unitem, idempotent: true}}
  inner:
    kind: subgraph
    workflow: {nodes: {inner: {kind: python, call: inner, idempotent: true}}}
  pay: {kind: python, call: pay}
  last: {kind: python, call: last, idempotent: true}
edges: [book -> each -> inner -> pay -> last]
"""
EFFECTS = ("book book", "item each[0]", "item each[1]", "inner inner/inner", "pay pay", "last last")
UNDONE = ("unitem each[1]~undo", "unitem each[0]~undo", "unbook book~undo")
FULL = os.environ.get("MESHFLOW_SOAK") == "full"


def ran(folder: Path, deadline: int, how: str) -> Any:
    """Run the program, or go on with the run; None where it was killed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(deadline), how],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == -9:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def check(folder: Path, deadlines: list[int], how: str) -> int:
    """Kill at each point in turn, then let it end; return how many points a whole run has."""
    (folder / "flow.yaml").write_text(FLOW, "utf-8")
    for deadline in deadlines:
        assert ran(folder, deadline, how) is None, "it ended before the point at which it was to be killed"
    result = ran(folder, 0, how)
    assert result is not None
    effects = Counter((folder / "effects").read_text("utf-8").splitlines())
    assert all(effects[one] >= 1 for one in EFFECTS)
    if how == "works":
        assert (result["status"], result["output"]) == ("completed", "last")
        assert set(effects) == set(EFFECTS)
    else:
        assert (result["status"], result["node"]) == ("failed", "last")
        assert all(effects[one] >= 1 for one in UNDONE)
        assert "could not be undone" not in result["reason"]
        assert {node["name"]: node["undone"] for node in result["nodes"]}["each"] == "completed"
    repeated = {one: count for one, count in effects.items() if count > 1}
    assert sum(repeated.values()) - len(repeated) <= len(deadlines), "more was repeated than was cut off"
    async with ReplayLedger(folder / "ledger.db") as ledger:
        assert (await ledger.verify_chain("r"))["valid"]
        commits = Counter(step["step_id"] for step in await ledger.get_run("r") if step["verdict"] == "commit")
    assert set(commits.values()) == {1}, "a step was recorded as completed twice"
    return int(result["points"])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["works", "fails"])
async def test_a_run_that_is_killed_at_some_points_goes_on(tmp_path: Path, how: str) -> None:
    await check(tmp_path, random.Random(20260103).sample(range(1, 200), 3), how)


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="MESHFLOW_SOAK=full runs the full count")
@pytest.mark.parametrize("how", ["works", "fails"])
async def test_a_run_that_is_killed_at_every_point_goes_on(tmp_path: Path, how: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    for deadline in range(1, await check(whole, [], how) + 1):
        folder = tmp_path / str(deadline)
        folder.mkdir()
        await check(folder, [deadline], how)
