"""A kill while other processes take steps: no step that begins after it executes, on both stores."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from meshflow import ReplayLedger
from meshflow.mesh import Mesh

WORKER = """
import asyncio, os, sys, time
from meshflow import NodeInput, ReplayLedger
from meshflow.mesh import Mesh

async def main():
    async with ReplayLedger(sys.argv[1], key=None) as ledger, Mesh(ledger=ledger) as mesh:
        async def lane(number):
            while True:
                began = time.monotonic()
                ran = []
                outcome = await mesh.runtime.run(
                    NodeInput(node_id="n", input="x", handler=ran.append, agent_id=sys.argv[2], run_id=f"r{number}"))
                os.write(1, f"{began} {len(ran)} {outcome.code or 'ok'}\\n".encode())
        await asyncio.gather(*(lane(number) for number in range(4)))

asyncio.run(main())
"""


@pytest.fixture
async def mesh(place: str) -> AsyncIterator[Mesh]:
    async with ReplayLedger(place, key=None) as ledger, Mesh(ledger=ledger) as one:
        await one.runtime.start()
        yield one


class Worker:
    """A process that takes steps as fast as it can, and says of each when it began, how often it ran, and its code."""

    def __init__(self, place: str, agent: str) -> None:
        self.agent = agent
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, place, agent], stdout=subprocess.PIPE, text=True
        )

    def steps(self, count: int) -> Iterator[tuple[float, int, str]]:
        assert self._process.stdout is not None
        for _ in range(count):
            began, ran, code = self._process.stdout.readline().split()
            yield float(began), int(ran), code

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def workers(place: str, mesh: Mesh) -> Iterator[list[Worker]]:
    several = [Worker(place, agent) for agent in ("bad", "bad", "good")]
    yield several
    for worker in several:
        worker.close()


@pytest.mark.slow
async def test_no_step_that_begins_after_a_kill_executes_anywhere(mesh: Mesh, workers: list[Worker]) -> None:
    for worker in workers:
        assert {code for _, _, code in await asyncio.to_thread(lambda one=worker: list(one.steps(8)))} == {"ok"}
    await mesh.kill(agent="bad", reason="it misbehaves", authority="ops")
    killed_at = time.monotonic()
    for worker in workers:
        told: list[tuple[float, int, str]] = []
        while len([1 for began, _, _ in told if began > killed_at]) < 12:
            told += await asyncio.to_thread(lambda one=worker: list(one.steps(1)))
        after = [(ran, code) for began, ran, code in told if began > killed_at]
        wanted = (1, "ok") if worker.agent == "good" else (0, "compliance_profile.killed")
        assert set(after) == {wanted}
    await mesh.release(agent="bad", reason="mended", authority="ops")
    released_at = time.monotonic()
    told = []
    while not [1 for began, _, _ in told if began > released_at]:
        told += await asyncio.to_thread(lambda: list(workers[0].steps(1)))
    assert told[-1][1:] == (1, "ok")
