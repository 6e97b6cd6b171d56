"""kill -9 at random moments: no side effect without its intent on disk, no answer without its record."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from meshflow import ReplayLedger

WORKER = """
import asyncio, os, sys
from meshflow import NodeInput, StepRuntime

folder, run_id = sys.argv[1], sys.argv[2]
effects = os.open(folder + "/effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
answers = os.open(folder + "/answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


async def effect(step_id):
    os.write(effects, f"{run_id} {step_id}\\n".encode())
    await asyncio.sleep(0)
    return step_id


async def steps(runtime, lane):
    number = 0
    while True:
        step_id = f"{lane}-{number}"
        step = NodeInput(node_id="effect", input=step_id, handler=effect, run_id=run_id, step_id=step_id)
        outcome = await runtime.run(step)
        assert outcome.ok, outcome
        os.write(answers, f"{run_id} {step_id}\\n".encode())
        number += 1


async def main():
    async with StepRuntime(config={"ledger": {"path": folder + "/ledger.db"}}) as runtime:
        print("ready", flush=True)
        await asyncio.gather(*(steps(runtime, lane) for lane in range(4)))


asyncio.run(main())
"""


def kills(count, seed, folder):
    """Start a worker and kill it a moment after a random number of effects, as often as asked.

    Return the runs, and how many effects there are at least, however slow the machine.
    """
    chance = random.Random(seed)
    runs, least = [], 0
    for number in range(count):
        run_id = f"run-{number}"
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), run_id], stdout=subprocess.PIPE, cwd=folder
        )
        with worker:
            assert worker.stdout.readline() == b"ready\n"
            wanted = chance.randrange(16)
            deadline = time.monotonic() + 60
            while sum(run == run_id for run, _ in lines(folder / "effects")) < wanted:
                assert time.monotonic() < deadline, "the worker takes no steps"
                time.sleep(0.002)
            time.sleep(chance.uniform(0.0, 0.02))
            os.kill(worker.pid, signal.SIGKILL)
        runs.append(run_id)
        least += wanted
    return runs, least


def lines(path):
    if not path.exists():
        return set()
    whole = path.read_text().rpartition("\n")[0]
    return {tuple(line.split()) for line in whole.splitlines()}


async def check(folder, runs):
    effects, answers = lines(folder / "effects"), lines(folder / "answers")
    async with ReplayLedger(folder / "ledger.db") as ledger:
        for run_id in runs:
            intents = {entry["step_id"] for entry in await ledger.entries(run_id, "intent")}
            steps = {entry["step_id"] for entry in await ledger.get_run(run_id)}
            done = {step_id for run, step_id in effects if run == run_id}
            told = {step_id for run, step_id in answers if run == run_id}
            assert done <= intents, "a side effect without its intent"
            assert told <= steps, "an answer without its record"
            unfinished = {entry["step_id"] for entry in await ledger.unfinished(run_id)}
            assert unfinished == intents - steps
            if intents:
                assert (await ledger.verify_chain(run_id))["valid"]
    return len(effects)


async def test_a_sample_of_kills(tmp_path):
    runs, least = kills(5, 20260122, tmp_path)
    assert await check(tmp_path, runs) >= least > 20


@pytest.mark.soak
@pytest.mark.skipif(os.environ.get("MESHFLOW_SOAK") != "full", reason="MESHFLOW_SOAK=full runs the full count")
async def test_two_hundred_kills(tmp_path):
    runs, least = kills(200, 20260102, tmp_path)
    assert await check(tmp_path, runs) >= least > 1000


async def test_a_kill_between_intent_and_outcome_leaves_an_unfinished_intent(tmp_path):
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import asyncio\n"
            "from meshflow import NodeInput, StepRuntime\n"
            "async def hang(value):\n"
            "    print('running', flush=True)\n"
            "    await asyncio.sleep(60)\n"
            "runtime = StepRuntime(config={'ledger': {'path': 'ledger.db'}})\n"
            "step = NodeInput(node_id='pay', input='x', handler=hang, run_id='r', step_id='s')\n"
            "asyncio.run(runtime.run(step))\n",
        ],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    with worker:
        assert worker.stdout.readline() == b"running\n"
        os.kill(worker.pid, signal.SIGKILL)
    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        (unfinished,) = await ledger.unfinished("r")
        assert (unfinished["step_id"], unfinished["node_id"]) == ("s", "pay")
        assert await ledger.get_run("r") == []
