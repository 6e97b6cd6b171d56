"""The records that ledgers are filled with where they are measured."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.harness import Spent
from meshflow.decision import Effect
from meshflow.ledger import ReplayLedger
from meshflow.record import StageResult, StepRecord
from meshflow.stages import STAGES

LONG, OTHER = "long", "other"
_HELD = 100_000
RESULTS = tuple(StageResult(stage.name, "default", Effect.ALLOW, elapsed_ns=1_000) for stage in STAGES[:7])


def record(number: int, run_id: str) -> StepRecord:
    """Return a record whose body and payloads have about 1.5 KB together; one in a hundred of ``other`` differs."""
    price = 20.99 if run_id == OTHER and number % 1_000 == 1 else 19.99
    return StepRecord(
        run_id=run_id, node_id=f"node-{number // 10 % 5}", step_id=f"step-{number}", tenant_id="acme", results=RESULTS,
        input={"question": "q" * 150}, output={"answer": "a" * 200, "price": price}, executed=True, tokens=12,
        cost_micro_usd=1_500, started_us=1_700_000_000_000_000 + number, duration_ns=1_000_000, fingerprint="f" * 64,
    )  # fmt: skip


def run_of(number: int) -> str:
    """Return whose step that is: a tenth each is of the two long runs, the rest of a thousand short ones."""
    return {0: LONG, 1: OTHER}.get(number % 10) or f"run-{number % 1_000}"


async def write(path: Path | str, count: int, waiters: int) -> Spent:
    """Return what a record costs on its way from a call of ``write`` until it is durable."""
    async with ReplayLedger(path) as ledger:
        await ledger.write(record(count, "warm"))
        # Made before the clocks run, unless there are too many to be held in memory: those are not timed.
        made = (record(number, run_of(number)) for number in range(count))
        records = iter(list(made) if count <= _HELD else made)

        async def waiter() -> None:
            for one in records:
                await ledger.write(one)

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(waiter() for _ in range(waiters)))
        return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
