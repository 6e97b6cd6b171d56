"""Call a handler the way its kind asks for: awaited, in a worker thread, or as a stream."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any

from meshflow.plugin import StepContext, entered
from meshflow_executor.ending import Ending, Tasks
from meshflow_executor.stream import AsyncPump, Pump, ThreadPump
from meshflow_executor.workers import Workers

_GENERATORS = inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR
# Most outputs are of these types, which are neither awaited nor iterated.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple, set, frozenset})


class Caller:
    """Calls handlers within their time."""

    def __init__(self, tasks: Tasks, workers: Callable[[], Workers]) -> None:
        self._tasks = tasks
        self._workers = workers

    async def call(self, handler: Callable[[Any], Any], context: StepContext, seconds: float) -> Ending:
        """Return how the handler ended; exceptions are in the Ending, cancellation of the caller is raised."""
        flags = _flags(handler)
        with entered(context):
            if not flags & (inspect.CO_COROUTINE | _GENERATORS):
                return await self._in_worker(handler, context, seconds)
            try:
                value = handler(context.input)
            except Exception as error:  # a wrong number of arguments; the body has not begun
                return Ending(error=error)
            if flags & inspect.CO_COROUTINE:
                return await self._tasks.run(value, seconds)
            return Ending(value)

    async def _in_worker(self, handler: Callable[[Any], Any], context: StepContext, seconds: float) -> Ending:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        call = functools.partial(copy_context().run, handler, context.input)
        ending = await self._workers().run(call, seconds)
        if type(ending.value) not in _PLAIN and inspect.isawaitable(ending.value):
            return await self._tasks.run(_awaited(ending.value), end - loop.time())
        return ending

    def pump(self, output: Any, context: StepContext) -> Pump | None:
        """Return what fetches the chunks of an output that is a stream, or None for a whole output."""
        if type(output) in _PLAIN:
            return None
        source: Any = output
        if isinstance(source, AsyncIterator) or hasattr(type(source), "__aiter__"):
            with entered(context):
                return AsyncPump(aiter(source), copy_context(), self._tasks)
        if isinstance(source, Iterator):
            with entered(context):
                return ThreadPump(source, copy_context(), self._workers())
        return None


def _flags(handler: Callable[[Any], Any]) -> int:
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    if code is None:
        code = getattr(inspect.getattr_static(type(handler), "__call__", None), "__code__", None)
    flags = getattr(code, "co_flags", 0)
    return flags if isinstance(flags, int) else 0


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
