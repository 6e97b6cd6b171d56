"""Finish work that must finish: in a task of its own, begun at once, which no cancellation of the caller reaches."""

from __future__ import annotations

import asyncio
import sys
from asyncio import futures, tasks
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must finish: a cancelled caller waits for it, then gets its cancellation.

    The task begins at once, and most often ends there: two turns of the event loop cost more than fifteen stages.
    """
    loop = asyncio.get_running_loop()
    task = _begin(work, loop)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        ended = loop.create_future()
        task.add_done_callback(lambda _, ended=ended: None if ended.done() else ended.set_result(None))  # type: ignore[misc]
        try:
            await ended
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled():
        task.exception()
        raise cancelled
    return task.result()


if sys.version_info >= (3, 12):

    def _begin(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        return asyncio.Task(work, loop=loop, eager_start=True)

else:

    class _Begun(tasks._PyTask):  # type: ignore[name-defined,misc]
        """What ``eager_start`` does from 3.12 on: take the first turn at once, as the current task.

        Sets the fields of 3.11's Task, whose own ``__init__`` would schedule the first turn instead.
        """

        def __init__(self, work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
            futures._PyFuture.__init__(self, loop=loop)  # type: ignore[attr-defined]
            self._name = "meshflow-finish"
            self._num_cancels_requested = 0
            self._must_cancel = False
            self._fut_waiter = None
            self._coro = work
            self._context = copy_context()
            caller = tasks.current_task(loop)
            if caller is not None:
                tasks._leave_task(loop, caller)
            try:
                self._context.run(self._Task__step)
            finally:
                if caller is not None:
                    tasks._enter_task(loop, caller)
            if not self.done():
                tasks._register_task(self)

    def _begin(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        return _Begun(work, loop)
