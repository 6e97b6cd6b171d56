"""Streams of chunks that end in time, whatever the handler's generator does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context
from typing import Any, Protocol

from meshflow_executor.ending import Ending, Tasks
from meshflow_executor.meter import Meter, unwrapped
from meshflow_executor.workers import Job, Workers, settle, tell

_END = object()


class StreamTimeoutError(TimeoutError):
    """A stream did not end in its time; ``code`` is the step's failure code."""

    code = "execution.timeout"


class InvalidCostError(ValueError):
    """A part of a stream told a cost that is none; ``code`` is the step's failure code."""

    code = "execution.invalid_cost"


class Pump(Protocol):
    """Fetches one chunk whenever it is asked, always in the same task or thread."""

    def ask(self, slot: asyncio.Future[Ending]) -> None: ...

    async def stop(self) -> None: ...


class Stream(AsyncIterator[Any]):
    """The chunks of one handler. Its time counts from the handler's start and includes the reader's own.

    A chunk may be ``Metered``: its cost is added up, and its value is the chunk, unless it is None. ``metered`` says
    whether a cost is known before the first chunk.
    """

    def __init__(
        self, pump: Pump, seconds: float, on_end: Callable[[bool | None], None], meter: Meter, metered: bool
    ) -> None:
        self._pump = pump
        self._meter = meter
        self._metered = metered
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._on_end: Callable[[bool | None], None] | None = on_end
        self._reading = False
        # A reader that goes away without closing must not keep the handler alive.
        self._watch = asyncio.get_running_loop().call_later(seconds, self._expire)
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if self._on_end is None:
            raise StopAsyncIteration
        if self._reading:
            raise RuntimeError("a stream has one reader")
        self._reading = True
        try:
            return await self._chunk()
        except StopAsyncIteration:
            await self._close(True)
            raise
        except asyncio.CancelledError:
            await self._close(None)
            raise
        except BaseException:
            await self._close(False)
            raise
        finally:
            self._reading = False

    async def aclose(self) -> None:
        """Stop the handler; that a reader has read enough says nothing of it."""
        await self._close(None)

    def spent(self) -> tuple[int | None, int]:
        """Return micro-USD and tokens so far; no cost where the handler told none, so that nobody takes it for zero."""
        return (self._meter.micro_usd if self._metered else None), self._meter.tokens

    async def _chunk(self) -> Any:
        while True:
            chunk, metered = unwrapped(await self._fetch())
            if metered is None:
                return chunk
            try:
                self._meter.add_value(metered)
            except ValueError as error:
                raise InvalidCostError(str(error)) from None
            self._metered = True
            if chunk is not None:
                return chunk

    async def _fetch(self) -> Any:
        loop = asyncio.get_running_loop()
        remaining = self._deadline - loop.time()
        if remaining <= 0:
            raise StreamTimeoutError("the stream did not end in its time")
        slot: asyncio.Future[Ending] = loop.create_future()
        self._pump.ask(slot)
        timer = loop.call_later(remaining, settle, slot, Ending(late=True))
        try:
            ending = await slot
        finally:
            timer.cancel()
        if ending.late or loop.time() > self._deadline:
            raise StreamTimeoutError("the stream did not end in its time")
        if ending.error is not None:
            raise ending.error
        if ending.value is _END:
            raise StopAsyncIteration
        return ending.value

    async def _close(self, ok: bool | None) -> None:
        on_end, self._on_end = self._on_end, None
        self._watch.cancel()
        if on_end is not None:
            on_end(ok)
            await self._pump.stop()

    def _expire(self) -> None:
        if not self._reading and self._on_end is not None:
            self._closing = asyncio.get_running_loop().create_task(self._close(False))


class AsyncPump:
    """Iterates an async iterator in one task for its whole life: cancel scopes may not change task between chunks."""

    def __init__(self, source: AsyncIterator[Any], context: Context, tasks: Tasks) -> None:
        self._source = source
        self._context = context
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._asked: asyncio.Queue[asyncio.Future[Ending]] = asyncio.Queue()

    def ask(self, slot: asyncio.Future[Ending]) -> None:
        """Have the next chunk put into the slot."""
        self._asked.put_nowait(slot)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), context=self._context)

    async def stop(self) -> None:
        """Cancel the iteration and close the generator."""
        if self._task is not None and not self._task.done():
            await self._tasks.stop(self._task)
        elif self._task is None:
            await _close_async(self._source)

    async def _run(self) -> None:
        try:
            ending = Ending()
            while ending.error is None and ending.value is not _END:
                slot = await self._asked.get()
                try:
                    ending = await self._next()
                except BaseException as error:
                    settle(slot, Ending(error=RuntimeError(f"the stream was stopped: {type(error).__name__}")))
                    raise
                settle(slot, ending)
        finally:
            await _close_async(self._source)

    async def _next(self) -> Ending:
        try:
            return Ending(await anext(self._source))
        except StopAsyncIteration:
            return Ending(_END)
        except Exception as error:
            return Ending(error=error)


class ThreadPump:
    """Iterates a generator in one worker thread for its whole life: what it opened may belong to that thread."""

    def __init__(self, source: Iterator[Any], context: Context, workers: Workers) -> None:
        self._source = source
        self._context = context
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._asked = threading.Semaphore(0)
        self._slot: asyncio.Future[Ending] | None = None
        self._stopped = False
        self._finished = False
        self._job: Job | None = None

    def ask(self, slot: asyncio.Future[Ending]) -> None:
        """Have the next chunk put into the slot."""
        self._slot = slot
        if self._job is None:
            self._job = self._workers.submit(lambda: self._context.run(self._run), self._ended)
        self._asked.release()

    async def stop(self) -> None:
        """Have the thread close the generator as soon as it gives up control; a stuck one is replaced."""
        self._stopped = True
        self._asked.release()
        if self._job is not None and not self._finished:
            self._workers.give_up(self._job)

    def _run(self) -> None:
        try:
            while True:
                self._asked.acquire()
                if self._stopped:
                    return
                try:
                    ending = Ending(next(self._source))
                except StopIteration:
                    self._finished = True
                    ending = Ending(_END)
                self._tell(ending)
                if ending.value is _END:
                    return
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def _ended(self, ending: Ending) -> None:
        if ending.error is not None:
            self._tell(ending)

    def _tell(self, ending: Ending) -> None:
        if self._slot is not None:
            tell(self._loop, self._slot, ending)


async def _close_async(source: AsyncIterator[Any]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
