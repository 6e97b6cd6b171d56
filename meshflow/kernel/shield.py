"""Finish work that must finish: in a task of its own, begun at once, which no cancellation of the caller reaches."""

from __future__ import annotations

import asyncio
import sys
from asyncio import futures, tasks
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from meshflow.kernel.ask import Asking, bounded, drive

T = TypeVar("T")


async def to_the_end(asking: Asking, work: Coroutine[Any, Any, T]) -> T:
    """Await work that must finish and asks hooks: a cancelled caller waits for it, then gets its cancellation.

    The task begins at once, and most often ends there: two turns of the event loop cost more than fifteen stages.
    """
    loop = asyncio.get_running_loop()
    task: asyncio.Task[T] = _begun(asking, work, loop)
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

    def _begun(asking: Asking, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        return asyncio.Task(drive(asking, work), loop=loop, eager_start=True)

else:

    class _Begun(tasks._PyTask):  # type: ignore[name-defined,misc]
        """What ``eager_start`` does from 3.12 on: the first turn is taken at once, as the current task.

        Sets the fields of 3.11's Task, whose own ``__init__`` would schedule the first turn instead; takes that turn in
        place of ``drive``; and whatever is left goes on as in any task.
        """

        def __init__(self, asking: Asking, work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self._callbacks: list[Any] = []
            self._name = "meshflow-finish"
            self._num_cancels_requested = 0
            self._must_cancel = False
            self._fut_waiter = None
            self._coro: Coroutine[Any, Any, Any] | None = None
            self._context = copy_context()
            caller = tasks.current_task(loop)
            if caller is not None:
                tasks._leave_task(loop, caller)
            tasks._enter_task(loop, self)
            asking.driven = True
            asking.binding = None
            try:
                pending = self._context.run(work.send, None)
            except StopIteration as done:
                self._result = done.value
                self._state = futures._FINISHED  # type: ignore[attr-defined]
            except asyncio.CancelledError:
                futures._PyFuture.cancel(self)  # type: ignore[attr-defined]
            except BaseException as error:
                futures._PyFuture.set_exception(self, error)  # type: ignore[attr-defined]
            else:
                self._coro = bounded(asking, work, pending)
            finally:
                tasks._leave_task(loop, self)
                if self._coro is not None:
                    self._go_on()
                if caller is not None:
                    tasks._enter_task(loop, caller)

        def _go_on(self) -> None:
            """Wait for what the first turn has yielded; a cancellation asked for in that turn meets it there."""
            tasks._register_task(self)
            cancelled, self._must_cancel = self._must_cancel, False
            self._context.run(self._Task__step)
            if cancelled and not self.done():
                self._num_cancels_requested -= 1
                self.cancel()

    _begun = _Begun
