"""A ledger of a million entries, in a file or in a server: whole verification, look-ups, proofs and a comparison."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from benchmarks.harness import Row, Spent, at_least, at_most, beside
from benchmarks.records import LONG, OTHER, write
from meshflow.ledger import ReplayLedger

ROUNDS = 3
LAYERS = (
    ("chains", ("chain",), 0.4),
    ("chains, log and commitments", ("chain", "merkle_log", "commitments"), 0.2),
    ("all layers", ("chain", "columns", "merkle_log", "commitments"), None),
)


async def large_rows(place: Path | str, folder: Path, count: int) -> list[Row]:
    """Measure a ledger that is written first: a tenth of its entries are in each of two runs."""
    written = await write(place, count, 512)
    sample = folder / "sample.db"
    await write(sample, min(count, 50_000), 256)
    async with ReplayLedger(place) as ledger:
        found = [Row(f"{count:,} entries written", 1 / written.wall, "/s")]
        found += await _verification(ledger, sample, judged=isinstance(place, Path))
        if isinstance(place, Path):
            found.append(at_most("memory of a process that verifies everything", _memory_mib(place), "MiB", 200))
        chosen, last = random.Random(1), count // 10 - 1
        looks: list[tuple[str, Callable[[], Awaitable[object]], float]] = [
            ("load_state", lambda: ledger.load_state(LONG, chosen.randrange(last)), 2),
            ("run_summary", lambda: ledger.run_summary(LONG), 2),
            ("list_runs, first page", lambda: ledger.list_runs(), 2),
            ("an inclusion proof", lambda: ledger.prove(LONG, chosen.randrange(last)), 1),
        ]
        found += [at_most(f"{what} in {count:,} entries", await _median_ms(look), "ms", most)
                  for what, look, most in looks]  # fmt: skip
        return [*found, *await _difference(ledger, count // 10)]


async def _verification(ledger: ReplayLedger, sample: Path, *, judged: bool) -> list[Row]:
    """Return how fast layers verify, in turn with plain sha256 on one core over the same bytes of a sample.

    One process is judged by its processor time, which is not that of a server, a process for each core by the clock on
    the wall.
    """
    rows, cores, same = [], os.cpu_count() or 1, "sha256 over the same bytes, one core"
    for what, layers, least in LAYERS:
        data, entries = _hashed(sample, payloads="commitments" in layers)
        alone, together, floors = list[Spent](), list[Spent](), list[Spent]()
        for _ in range(ROUNDS if judged and least is not None else 1):
            floors.append(_spent(_hash(data), entries))
            alone.append(await _verified(ledger, layers, 1))
            if cores > 1:
                floors.append(_spent(_hash(data), entries))
                together.append(await _verified(ledger, layers, cores))
        floor = _median(floors)
        for who, speed, bare in (
            ("one process, by CPU", 1 / _median(alone).cpu, 1 / floor.cpu),
            *([(f"{cores} processes, by the wall", 1 / _median(together).wall, 1 / floor.wall)] if together else []),
        ):
            rows.append(
                beside(f"verify {what}, {who}", speed, "entries/s", bare, same)
                if least is None or not judged
                else at_least(f"verify {what}, {who}", speed, "entries/s", least, bare, same)
            )
    return rows


def _hash(data: list[bytes]) -> Callable[[], None]:
    def work() -> None:
        for item in data:
            sha256(item).digest()

    return work


def _spent(work: Callable[[], None], count: int) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


async def _verified(ledger: ReplayLedger, layers: tuple[str, ...], processes: int) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    result = await ledger.verify_ledger(layers=layers, processes=processes)
    assert result["valid"], result["errors"]
    count = result["entries"]
    return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def _median(some: list[Spent]) -> Spent:
    return Spent(statistics.median(one.wall for one in some), statistics.median(one.cpu for one in some))


def _hashed(path: Path, *, payloads: bool) -> tuple[list[bytes], int]:
    """Return the bytes that verification hashes, and of how many entries they are."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    data = [row[0] for row in db.execute("SELECT body FROM entries")]
    entries = len(data)
    if payloads:
        data += [row[0] for row in db.execute("SELECT data FROM payloads")]
    db.close()
    return data, entries


async def _difference(ledger: ReplayLedger, steps: int) -> list[Row]:
    """Return how long two long runs take to compare, the best of three, and how long the event loop waits meanwhile."""
    spent, stalls = [], []
    for _ in range(3):
        stall = asyncio.create_task(_longest_stall())
        began = time.perf_counter()
        diff = await ledger.diff(LONG, OTHER)
        spent.append(time.perf_counter() - began)
        stall.cancel()
        stalls.append(await stall)
        assert len(diff.changed) == len(range(1, steps * 10, 1_000)), len(diff.changed)
    return [
        at_most(f"diff of two runs of {steps:,} steps", min(spent), "s", 3),
        at_most("event loop held up by that diff", min(stalls) * 1_000, "ms", 50),
    ]


async def _longest_stall() -> float:
    """Return, when cancelled, the longest time in seconds for which the loop did not turn.

    A turn counts for no more than the processor time that the process used meanwhile, so that a machine which others
    keep busy does not count.
    """
    worst, last, used = 0.0, time.perf_counter(), time.process_time()
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.001)
            now, spent = time.perf_counter(), time.process_time()
            worst = max(worst, min(now - last - 0.001, spent - used))
            last, used = now, spent
    return worst


def _memory_mib(path: Path) -> float:
    """Return the peak of a process of its own that verifies all by itself."""
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom meshflow.ledger import ReplayLedger\n"
        "async def main():\n    async with ReplayLedger(sys.argv[1]) as ledger:\n"
        "        assert (await ledger.verify_ledger(processes=1))['valid']\nasyncio.run(main())\n"
        "peak = [line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM')]\n"
        "print(peak[0].split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


async def _median_ms(look: Callable[[], Awaitable[object]]) -> float:
    spent = []
    for _ in range(100):
        began = time.perf_counter()
        await look()
        spent.append((time.perf_counter() - began) * 1_000)
    return statistics.median(spent)
