"""One thread that owns one object, for libraries whose objects may be used only where they were made."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from traceback import clear_frames
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_STOP_WAIT_S = 5.0


class WorkerBusyError(RuntimeError):
    """More calls wait than the worker accepts."""


class Cell(Generic[T]):
    """Where the worker's thread keeps its object; nothing else may touch it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: T | None = None


Item = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[Cell[Any]], Any]]


class Worker(Generic[T]):
    """Runs jobs one after another on a thread of its own; each job is given the thread's cell.

    Callers may sit on any event loop. A caller that gives up before its job began has it skipped; a job that runs
    cannot be stopped. ``close``, losing the last reference, and the interpreter's exit all end the thread.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._max_waiting = max_waiting
        self._thread = threading.Thread(target=_work, args=(self._queue,), name=name, daemon=True)
        # A daemon, since a thread that is not would be waited for before anything could tell it to stop.
        self._finalizer = weakref.finalize(self, _stop, self._queue, self._thread)
        self._thread.start()

    async def call(self, job: Callable[[Cell[T]], R]) -> R:
        """Run a job on the thread and return what it returns; WorkerBusyError if too many wait."""
        if self._queue.qsize() >= self._max_waiting:
            raise WorkerBusyError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._queue.put((loop, future, job))
        return await future

    async def close(self) -> None:
        """Finish the jobs that wait, then end the thread."""
        self._finalizer.detach()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)


def _stop(queue: SimpleQueue[Item | None], thread: threading.Thread) -> None:
    queue.put(None)
    if threading.current_thread() is not thread:
        thread.join(_STOP_WAIT_S)


def _work(queue: SimpleQueue[Item | None]) -> None:
    cell: Cell[Any] = Cell()
    while (item := queue.get()) is not None:
        loop, future, job = item
        if future.cancelled():
            continue
        value, error = None, None
        try:
            value = job(cell)
        except BaseException as raised:  # the thread must outlive any job; its caller gets the error
            error = raised
            clear_frames_of(raised)
        with suppress(RuntimeError):  # the caller's loop is closed, and so nobody waits
            loop.call_soon_threadsafe(_deliver, future, value, error)
        del item, future, job, value, error
    cell.value = None


@contextmanager
def freed_here() -> Iterator[None]:
    """Let no error carry objects of this thread away in its frames."""
    try:
        yield
    except BaseException as error:
        clear_frames_of(error)
        raise


def clear_frames_of(error: BaseException | None) -> None:
    """Empty the frames that an error remembers: they would carry the thread's object away to be freed elsewhere."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _deliver(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
