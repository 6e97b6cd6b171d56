"""A workflow whose process is killed goes on in another, and does nothing finished again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger

PROGRAM = """
import asyncio, json, sys, time
from pathlib import Path
from meshflow import ReplayLedger, StepRuntime, WorkflowDefinition
from meshflow.workflow import Registry

what, folder = sys.argv[1], Path(sys.argv[2])
registry = Registry()


def note(name):
    with open(folder / "calls", "a") as file:
        file.write(name + "\\n")


for name in ("first", "last"):
    registry.function(lambda given, name=name: note(name) or f"{name} of {given}", name=name)


@registry.function
def middle(given):
    note("middle")
    if not (folder / "go").exists():
        time.sleep(60)
    return f"middle of {given}"


async def main():
    wf = WorkflowDefinition.from_yaml(folder / "flow.yaml")
    async with ReplayLedger(folder / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        if what == "run":
            result = await wf.run("x", runtime=runtime, registry=registry, run_id="r")
        else:
            result = await wf.resume("r", runtime=runtime, registry=registry)
        print(json.dumps(result.to_dict()))


asyncio.run(main())
"""
FLOW = """\
nodes:
  first: {kind: python, call: first}
  middle: {kind: python, call: middle, IDEMPOTENT}
  last: {kind: python, call: last}
edges: [first -> middle -> last]
"""


def program(what: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def resumed(folder: Path) -> Any:
    out, err = program("resume", folder).communicate(timeout=60)
    assert out, err
    return json.loads(out)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text("utf-8").split() if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_killed_run_goes_on_in_another_process(tmp_path: Path, idempotent: bool) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW.replace("IDEMPOTENT", f"idempotent: {str(idempotent).lower()}"), "utf-8")
    running = program("run", tmp_path)
    until = time.monotonic() + 60
    while calls(tmp_path) != ["first", "middle"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (tmp_path / "go").touch()

    result = resumed(tmp_path)
    if not idempotent:
        # It may have had its effect: a person says whether it is to be done again.
        assert (result["status"], result["node"]) == ("paused", "middle")
        assert calls(tmp_path) == ["first", "middle"]
        async with ReplayLedger(tmp_path / "ledger.db") as ledger:
            await ledger.decide_approval(result["approvals"][0], approve=True, approver="grace")
        result = resumed(tmp_path)
    assert result["status"] == "completed"
    assert result["output"] == "last of middle of first of x"
    assert calls(tmp_path) == ["first", "middle", "middle", "last"]
    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        assert (await ledger.verify_chain("r"))["valid"]
    assert resumed(tmp_path)["output"] == result["output"]
    assert calls(tmp_path) == ["first", "middle", "middle", "last"]
