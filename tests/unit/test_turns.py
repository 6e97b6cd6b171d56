"""Turns between loops and threads: one at a time, and a caller that gives up takes none with it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from meshflow.turns import turn


async def test_a_caller_that_is_cut_off_while_it_waits_keeps_nothing() -> None:
    lock = threading.Lock()

    async def wait() -> None:
        async with turn(lock):
            raise AssertionError("it was taken")

    with lock:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5), turn(lock):
        assert lock.locked()
    assert not lock.locked()


def test_loops_of_several_threads_come_one_after_another() -> None:
    lock, inside, most = threading.Lock(), 0, 0

    async def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            async with turn(lock):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (inside, most) == (0, 1)
