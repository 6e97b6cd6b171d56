"""Measure how long a piece of work holds up the event loop that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter


async def longest_stall_ms(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time, in milliseconds, for which nothing else could run while ``work`` did."""
    longest = 0.0
    begun = asyncio.Event()

    async def tick() -> None:
        nonlocal longest
        last = perf_counter()
        begun.set()
        while True:
            await asyncio.sleep(0)
            now = perf_counter()
            longest = max(longest, now - last)
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
