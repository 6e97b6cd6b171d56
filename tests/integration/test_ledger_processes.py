"""Many processes on one ledger, and processes that are killed while they write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
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


NURSERY = """
import os, sys

PARTS = sys.argv[3:]
import meshflow.ledger.sqlite.read, meshflow.ledger.verify.run  # what a writer needs is imported once, before it forks

for line in sys.stdin:
    what, argument = line.split()
    if what == "start":
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(f"{sys.argv[2]}/{argument}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
            sys.argv = ["-c", sys.argv[1], argument, *PARTS]
            exec(WORKER, {"__name__": "writer"})
            os._exit(1)
        print(pid, flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(int(argument), 0)[1]), flush=True)
"""
WRITERS, RUNS = 8, 4


class Nursery:
    """Starts writers by forking, so that eight of them are writing a moment later; each says what is acknowledged."""

    def __init__(self, path: Path, place: Path) -> None:
        self._place = place
        script = f"WORKER = {WORKER!r}\n{NURSERY}"
        arguments = [sys.executable, "-c", script, str(path), str(place), "100000", "8", str(RUNS)]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, what: str, argument: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {argument}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, name: str) -> int:
        return self._ask("start", name)

    def kill(self, pids: list[int]) -> None:
        """Kill them all and return when they are gone; none may have ended by itself."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            assert self._ask("wait", pid) == -signal.SIGKILL

    def acknowledged(self) -> list[str]:
        """Return the lines of all writers, without one that is just being written."""
        lines = (line for file in self._place.iterdir() for line in file.read_text().splitlines(keepends=True))
        return [line.rstrip() for line in lines if line.endswith("\n")]

    def close(self) -> None:
        self._process.communicate(timeout=60)


def stored(path: Path) -> set[str]:
    """Return the lines that the steps in the file would have been acknowledged with."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {f"{run} {step}" for run, step in db.execute("SELECT run_id, step_id FROM entries WHERE kind = 'step'")}


def kill_at_random(folder: Path, tries: int, seed: int) -> int:
    """Kill some of eight writers, so often, at random moments; return how many records were acknowledged.

    Now and then all of them die at once. After each time all that was acknowledged is there, and in the end every
    chain, the log and every payload verify.
    """
    chance, path, place = random.Random(seed), folder / "runs.db", folder / "acknowledged"
    place.mkdir(parents=True)
    nursery = Nursery(path, place)
    alive: list[int] = []
    for attempt in range(tries):
        alive += [nursery.start(f"t{attempt}w{number}") for number in range(WRITERS - len(alive))]
        before = len(nursery.acknowledged())
        while len(nursery.acknowledged()) == before:  # only from then on is there something to lose
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.08))
        dying = chance.sample(alive, chance.choice((1, 2, 3, 5, WRITERS)))
        nursery.kill(dying)
        alive = [pid for pid in alive if pid not in dying]
        said = nursery.acknowledged()
        assert len(said) == len(set(said))
        assert set(said) <= stored(path)
    nursery.kill(alive)
    said = nursery.acknowledged()
    nursery.close()
    assert asyncio.run(check(path, said, RUNS)) >= len(said)
    return len(said)


def test_killed_writers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert kill_at_random(tmp_path / "sample", 6, seed=7) > 0


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="MESHFLOW_SOAK=full runs the full count")
def test_two_hundred_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    for seed in range(10):
        kill_at_random(tmp_path / str(seed), 20, seed)


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
