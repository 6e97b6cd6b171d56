"""How one call of a handler ended, and running a coroutine so that it ends in time whatever it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    """How a call ended: a value, an exception, out of time, or never begun for want of a worker."""

    value: Any = None
    error: BaseException | None = None
    late: bool = False
    begun: bool = True


LATE = Ending(late=True)
NOT_BEGUN = Ending(late=True, begun=False)


class Tasks:
    """Runs coroutines in tasks of their own, and keeps those that will not end.

    A task of its own costs a few microseconds and is what makes a timeout sure: ``asyncio.timeout`` alone waits for
    ever for a handler that swallows its cancellation.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self.left_behind: set[asyncio.Task[Any]] = set()

    async def run(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> Ending:
        """Return how the coroutine ended. Cancellation of the caller reaches it, and is passed on."""
        task = asyncio.get_running_loop().create_task(coroutine)
        try:
            # Most quick handlers end in this turn, and then need no timer.
            await asyncio.sleep(0)
            if not task.done() and not await ended(task, seconds):
                await self.stop(task)
                return LATE
        except asyncio.CancelledError:
            await self.stop(task)
            raise
        if task.cancelled():
            return Ending(error=asyncio.CancelledError("the handler cancelled itself"))
        error = task.exception()
        return Ending(error=error) if error is not None else Ending(task.result())

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task and give it time to clean up; one that goes on regardless is left behind."""
        task.cancel()
        self.left_behind.add(task)
        task.add_done_callback(self._forget)
        if not await ended(task, self._grace_s):
            log.warning("a handler goes on after its cancellation: %s", task.get_name())

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.left_behind.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a cancelled handler ended in an error", exc_info=task.exception())


async def ended(task: asyncio.Task[Any], seconds: float) -> bool:
    """Wait until the task ends or the time is up, and say which; the task is not cancelled."""
    if task.done():
        return True
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def release(*_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(release)
    timer = loop.call_later(max(0.0, seconds), release)
    try:
        await waiter
    finally:
        timer.cancel()
        task.remove_done_callback(release)
    return task.done()
