"""Many processes on one ledger, and processes that are killed while they write."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshflow.ledger import ReplayLedger

FULL = os.environ.get("MESHFLOW_SOAK") == "full"
WORKER = """
import asyncio, os, sys
from meshflow.ledger import Intent, ReplayLedger
from meshflow.record import StepRecord

async def main(path, name, count, width, runs):
    # One line per acknowledged record, in one write each, so that a kill leaves none half said.
    async with ReplayLedger(path, busy_timeout_ms=60_000) as ledger:
        async def some(lane):
            for number in range(lane, count, width):
                run, step = f"run-{number % runs}", f"{name}-{number}"
                if number % 3 == 0:
                    await ledger.write_intent(Intent(run_id=run, step_id=step, node_id="n", started_us=1))
                await ledger.write(StepRecord(run_id=run, node_id="n", step_id=step, input="x" * (number % 7 * 300)))
                os.write(1, f"{run} {step}\\n".encode())
        await asyncio.gather(*(some(lane) for lane in range(width)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
"""


def start(path: Path, name: str, count: int, width: int, runs: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WORKER, str(path), name, str(count), str(width), str(runs)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def check(path: Path, acknowledged: list[str], runs: int) -> int:
    """Assert that every acknowledged record is there once and every chain verifies; return how many steps there are."""
    found = 0
    async with ReplayLedger(path) as ledger:
        for run in range(runs):
            steps = [step["step_id"] for step in await ledger.get_run(f"run-{run}")]
            found += len(steps)
            assert len(steps) == len(set(steps))
            missing = {line.split()[1] for line in acknowledged if line.split()[0] == f"run-{run}"} - set(steps)
            assert not missing
            result = await ledger.verify_chain(f"run-{run}")
            assert result["errors"] in ([], [f"the ledger has no run 'run-{run}'"])
            assert result["steps_verified"] == len(steps)
        whole = await ledger.verify_ledger()
        assert (whole["errors"], whole["uncovered"]) == ([], 0)
    return found


def test_eight_processes_share_a_ledger(tmp_path: Path) -> None:
    path, count = tmp_path / "runs.db", 1_000 if FULL else 60
    workers = [start(path, f"w{number}", count, 8, 3) for number in range(8)]
    acknowledged: list[str] = []
    for worker in workers:
        out, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors.decode()
        acknowledged += out.decode().splitlines()
    assert len(acknowledged) == 8 * count
    assert asyncio.run(check(path, acknowledged, 3)) == 8 * count


def kill_at_random(path: Path, tries: int, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: list[str] = []
    for attempt in range(tries):
        workers = [start(path, f"t{attempt}w{number}", 100_000, 8, 4) for number in range(2)]
        for worker in workers:
            # Only from the first acknowledgement on is there something to lose.
            assert worker.stdout is not None
            acknowledged.append(worker.stdout.readline().decode())
        time.sleep(chance.uniform(0, 0.25))
        for worker in chance.sample(workers, len(workers)):
            worker.kill()
            time.sleep(chance.uniform(0, 0.02))
        for worker in workers:
            out, _ = worker.communicate(timeout=60)
            acknowledged += [line for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]
        assert asyncio.run(check(path, acknowledged, 4)) >= len(acknowledged)


def test_a_killed_writer_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kill_at_random(tmp_path / "runs.db", 3, seed=7)


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="MESHFLOW_SOAK=full runs the full count")
def test_a_hundred_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    for seed in range(10):
        kill_at_random(tmp_path / f"runs-{seed}.db", 5, seed)


async def test_what_a_killed_writer_intended_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    script = (
        "import asyncio, os, signal, sys\nfrom meshflow.ledger import Intent, ReplayLedger\n"
        "async def main():\n    ledger = ReplayLedger(sys.argv[1])\n"
        "    await ledger.write_intent(Intent(run_id='r', step_id='pay', node_id='n', tool='pay'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(path)], timeout=30)
    async with ReplayLedger(path) as ledger:
        assert [intent["tool"] for intent in await ledger.unfinished()] == ["pay"]
        assert await ledger.next_attempt("r", "pay") == 2
        assert (await ledger.verify_chain("r"))["valid"]
