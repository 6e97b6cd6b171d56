"""A process that is killed while a graph runs: another one goes on, and nothing that had finished runs again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshflow import ReplayLedger

PROGRAM = """
import sys, time
from pathlib import Path
from typing import Annotated, TypedDict

from meshflow import END, START, ReplayLedger, Send, StateGraph, StepRuntime, add
from meshflow.checkpoint.sqlite import SqliteCheckpoints

folder, resume, governed = Path(sys.argv[1]), sys.argv[2] == "resume", sys.argv[3] == "governed"
runtime = StepRuntime(ledger=ReplayLedger(folder / "ledger.db")) if governed else None


class State(TypedDict):
    log: Annotated[list[str], add]
    round: int


def note(what):
    with open(folder / "journal", "a") as journal:
        journal.write(what + "\\n")


def quick(given):
    note(f"quick {given['round']} {given['n']}")
    return {"log": [f"{given['round']}.{given['n']}"]}


def slow(state):
    note(f"slow begins {state['round']}")
    if state["round"] == 2 and not resume:
        time.sleep(60)
    note(f"slow ends {state['round']}")
    return {"log": [f"slow {state['round']}"]}


def begin(state):
    note(f"begin {state['round'] + 1}")
    return {"round": state["round"] + 1}


def spread(state):
    return ["slow", *(Send("quick", {"round": state["round"], "n": n}) for n in range(3))]


graph = (
    StateGraph(State)
    .add_node("begin", begin)
    .add_node("slow", slow)
    .add_node("quick", quick)
    .add_edge(START, "begin")
    .add_conditional_edges("begin", spread, ["slow", "quick"])
    .add_conditional_edges("slow", lambda state: END if state["round"] == 3 else "begin", ["begin", END])
    .compile(SqliteCheckpoints(folder / "checkpoints.db"), runtime=runtime)
)
if not resume:
    graph.invoke({"round": 0}, thread_id="t")
else:
    print(graph.invoke(None, thread_id="t")["log"])
"""


@pytest.mark.parametrize("kind", ["bare", "governed"])
async def test_run_killed_within_a_superstep_goes_on_in_another_process(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, program, tmp_path, "begin", kind])
    journal = tmp_path / "journal"
    deadline = time.monotonic() + 30
    while not _killable(journal):
        assert time.monotonic() < deadline, journal.read_text() if journal.exists() else "it never began"
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)  # what the quick ones did is on disk by now
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [sys.executable, program, tmp_path, "resume", kind], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str(
        [
            *("slow 1", "1.0", "1.1", "1.2"),
            *("slow 2", "2.0", "2.1", "2.2"),
            *("slow 3", "3.0", "3.1", "3.2"),
        ]
    )
    lines = journal.read_text().splitlines()
    finished = [line for line in lines if not line.startswith("slow begins")]
    assert sorted(finished) == sorted(set(finished)), "something that had finished ran again"
    assert lines.count("slow begins 2") == 2, "what was under way runs again, and it alone"
    assert lines.count("slow begins 1") == lines.count("slow begins 3") == 1
    if kind == "governed":
        async with ReplayLedger(tmp_path / "ledger.db") as ledger:
            slow = [(one["attempt"], one["verdict"]) for one in await ledger.get_run("t") if one["node_id"] == "slow"]
            assert slow == [(1, "commit"), (2, "commit"), (1, "commit")]
            assert [one["attempt"] for one in await ledger.unfinished("t")] == [1]
            assert (await ledger.verify_chain("t"))["valid"]


GATES = """
import asyncio, sys
from pathlib import Path
from typing import Annotated, TypedDict

from meshflow import START, ReplayLedger, StateGraph, StepRuntime, add
from meshflow.plugin import NoSettings, Plugin, hookimpl

folder, resume, where = Path(sys.argv[1]), sys.argv[2] == "resume", sys.argv[3]


async def reach(what):
    if what == where and not resume:
        (folder / "reached").touch()
        await asyncio.sleep(60)


class Waiting(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, context):
        if context.step.node_id == "pay":
            await reach("gates")

    @hookimpl
    async def guard_output(self, context, output):
        if context.step.node_id == "pay":
            await reach("output")


class State(TypedDict):
    log: Annotated[list[str], add]


def pay(state):
    with open(folder / "journal", "a") as journal:
        journal.write("paid\\n")
    return {"log": ["paid"]}


async def main():
    limits = {"stages": {"input_guardrails": {"timeout_ms": 100_000}, "output_guardrails": {"timeout_ms": 100_000}}}
    async with (
        ReplayLedger(folder / "ledger.db") as ledger,
        StepRuntime(ledger=ledger, config=limits, plugins={"waiting": Waiting(NoSettings())}) as runtime,
    ):
        graph = (
            StateGraph(State)
            .add_node("order", lambda state: {"log": ["ordered"]})
            .add_node("pay", pay, idempotent=False, risk="internal")
            .add_edge(START, "order")
            .add_edge("order", "pay")
            .compile(folder / "graphs.db", runtime=runtime)
        )
        result = await graph.ainvoke(None if resume else {}, thread_id="t")
        print(result["log"], len(result.get("__interrupt__", ())))


asyncio.run(main())
"""


@pytest.mark.parametrize(("where", "told"), [("gates", "['ordered', 'paid'] 0"), ("output", "['ordered'] 1")])
def test_node_that_must_not_run_twice_runs_after_a_death_in_the_gates_and_asks_after_one_behind_them(
    tmp_path: Path, where: str, told: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(GATES)
    process = subprocess.Popen([sys.executable, program, tmp_path, "begin", where])
    deadline = time.monotonic() + 30
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [sys.executable, program, tmp_path, "resume", where], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == told
    assert (tmp_path / "journal").read_text().splitlines() == ["paid"]


def _killable(journal: Path) -> bool:
    if not journal.exists():
        return False
    lines = journal.read_text().splitlines()
    return "slow begins 2" in lines and sum(line.startswith("quick 2") for line in lines) == 3
