"""256 durable steps at a time, beside what the processor and the disk would allow."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from statistics import median

from benchmarks.durable import RECORDS_PER_STEP, BareCommits, completed, governed, record_bytes, steps
from benchmarks.harness import Row, folder

AT_ONCE = 256


async def rows(quick: bool) -> list[Row]:
    """Measure the default runtime under load."""
    rounds, count = (1, AT_ONCE) if quick else (7, 4 * AT_ONCE)
    rates: list[float] = []
    cpus: list[float] = []
    groups: list[float] = []
    with folder() as path:
        bare = BareCommits(path / "bare.db", await record_bytes(path))
        async with governed(path / "ledger.db") as runtime:
            waiting = iter(list(islice(steps("run"), count * rounds)))

            async def worker() -> None:
                for step in islice(waiting, count // AT_ONCE):
                    completed(await runtime.run(step))

            for _ in range(rounds):
                wall, cpu = time.perf_counter(), time.process_time()
                await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
                rates.append(count / (time.perf_counter() - wall))
                cpus.append((time.process_time() - cpu) / count)
                wall = time.perf_counter()
                for _ in range(count * RECORDS_PER_STEP // AT_ONCE):
                    bare.commit(AT_ONCE)
                groups.append(count * RECORDS_PER_STEP / (time.perf_counter() - wall))
        bare.close()
    rate, by_cpu, by_disk = median(rates), 1 / median(cpus), median(groups) / RECORDS_PER_STEP
    floor, name = min((by_cpu, "1 / CPU per step"), (by_disk, f"group commits / {RECORDS_PER_STEP}"))
    ratio = rate / floor
    return [
        Row(f"{AT_ONCE} durable steps at once: rate", rate, "/s", floor, name, ratio, ">= 0.7", ratio >= 0.7),
        Row("the other bound", max(by_cpu, by_disk), "/s"),
    ]
