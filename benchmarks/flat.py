"""Whether a runtime stays as it began: CPU and memory per step over a hundred thousand durable steps.

``python -m benchmarks.flat STEPS BLOCKS`` is the process that is measured; it prints a line of JSON for each block.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.durable import completed, governed, steps
from benchmarks.harness import ROOT, Row, at_most, folder
from meshflow import NodeInput

AT_ONCE = 64
GROWTH = 1.1


async def rows(quick: bool) -> list[Row]:
    """Run the process and compare its first tenth with its last."""
    total, blocks = (400, 10) if quick else (100_000, 100)
    command = [sys.executable, "-m", "benchmarks.flat", str(total), str(blocks)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the measured process failed: {done.stderr[-2_000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    tenth = max(1, blocks // 10)
    first, last = lines[:tenth], lines[-tenth:]
    cpu = [median(line["cpu_us"] for line in part) for part in (first, last)]
    rss = [part[-1]["rss_kb"] / 1024 for part in (first, last)]
    bytes_per_step = (rss[1] - rss[0]) * 2**20 / (total * 0.9)
    when = f"the first {total // 10:,} steps"
    return [
        at_most(f"CPU per step, last tenth of {total:,}", cpu[1], "us", GROWTH, baseline=cpu[0], baseline_is=when),
        at_most(f"memory after {total:,} steps", rss[1], "MB", GROWTH, baseline=rss[0], baseline_is=f"after {when}"),
        Row("memory that a step leaves behind", bytes_per_step, "bytes"),
    ]


def mixed() -> Iterator[NodeInput]:
    """Yield steps of one endless run in turn with steps that are each a run of their own."""
    for number, step in enumerate(steps("long")):
        yield step if number % 2 else replace(step, run_id=f"run-{number}")


def rss_kb() -> int:
    """Return the memory that the process holds now; its peak, where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def measure(total: int, blocks: int) -> None:
    """Run the steps and print what each block took."""
    with folder() as path:
        async with governed(path / "ledger.db") as runtime:
            endless, count = mixed(), total // blocks

            async def worker(waiting: Iterator[NodeInput]) -> None:
                for step in waiting:
                    completed(await runtime.run(step))

            for block in range(blocks):
                waiting = iter(list(islice(endless, count)))
                begun = time.process_time()
                await asyncio.gather(*(worker(waiting) for _ in range(AT_ONCE)))
                cpu_us = (time.process_time() - begun) / count * 1e6
                print(json.dumps({"block": block, "cpu_us": cpu_us, "rss_kb": rss_kb()}), flush=True)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2])))
