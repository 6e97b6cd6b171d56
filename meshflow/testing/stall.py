"""Measure how long a piece of work holds up the event loop that it runs in.

On a machine with more to do than processors, a thread that is ready to run waits for its turn, and so does whoever
waits for what that thread holds. Where the system counts such waiting (Linux, schedstat) it is taken off: it is no
plugin's doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

_THREADS = Path("/proc/self/task")
_SHORT_S = 0.001
_STALE_S = 0.005


async def longest_stall_ms(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time, in milliseconds, for which nothing else could run while ``work`` did."""
    longest = 0.0
    begun = asyncio.Event()

    async def tick() -> None:
        nonlocal longest
        last = noted = perf_counter()
        waited = _waited_for_a_processor_s()
        begun.set()
        while True:
            await asyncio.sleep(0)
            now = perf_counter()
            if now - last > _SHORT_S:
                before, waited, noted = waited, _waited_for_a_processor_s(), now
                longest = max(longest, now - last - (waited - before))
                now = perf_counter()
            elif now - noted > _STALE_S:  # or what was waited before the gap would be taken off as well
                waited, noted = _waited_for_a_processor_s(), now
            last = now

    ticker = asyncio.create_task(tick())
    await begun.wait()
    try:
        await asyncio.create_task(_awaited(work))
        await asyncio.sleep(0)
    finally:
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)
    return longest * 1_000


def _waited_for_a_processor_s() -> float:
    """Return how long threads of this process have been ready to run without a processor; 0 where nobody counts."""
    waited_ns = 0
    try:
        for thread in _THREADS.iterdir():
            waited_ns += int((thread / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):  # no such count here, or a thread that has just ended
        pass
    return waited_ns / 1e9


async def best_of_three_ms(work: Callable[[], Awaitable[object]], limit_ms: float) -> float:
    """Return the least stall of up to three tries, since a busy machine adds to one but not to all."""
    best = float("inf")
    for _ in range(3):
        best = min(best, await longest_stall_ms(work))
        if best <= limit_ms:
            break
    return best


async def _awaited(work: Callable[[], Awaitable[object]]) -> object:
    return await work()
