"""Where nodes run: in the caller's thread and its helpers, or on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from meshflow.errors import ContractError
from meshflow.graph.errors import InvalidRunError
from meshflow.graph.stream import Sink
from meshflow.graph.task import Task

T = TypeVar("T")


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise ContractError("a graph that was to run without an event loop waited for something")


class Host(Protocol):
    """Calls functions and runs the tasks of a superstep."""

    async def call(self, function: Callable[..., Any], given: Any, more: Mapping[str, Any]) -> Any:
        """Call a sync function where it blocks nobody."""
        ...

    def for_subgraph(self, workers: Callable[[], ThreadPoolExecutor]) -> Host:
        """Return a host for a graph inside of a node, with workers of its own."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def alone(self, task: Task) -> None:
        """Perform a task that is the only one."""
        ...

    def each(self, tasks: Sequence[Task], sink: Sink | None) -> AsyncGenerator[Task | None]:
        """Perform tasks side by side and yield each as it ends; None when ``sink`` has something to read meanwhile.

        Once a task has failed no other is begun; those that run are cancelled where they can be, and waited for. So
        they are when it is closed: no node of a run goes on behind the run's end.
        """
        ...


class Direct:
    """Runs nodes in the thread of the caller, and several at once in worker threads.

    The caller's thread takes part: it runs what no worker has begun. So a node that runs a graph of its own never waits
    for a worker that never comes.
    """

    def __init__(self, workers: Callable[[], ThreadPoolExecutor]) -> None:
        self._workers = workers

    def for_subgraph(self, workers: Callable[[], ThreadPoolExecutor]) -> Direct:
        """Return a host that runs nodes in the same thread."""
        return Direct(workers)

    async def call(self, function: Callable[..., Any], given: Any, more: Mapping[str, Any]) -> Any:
        """Call it here and now."""
        value = function(given, **more) if more else function(given)
        if inspect.iscoroutine(value):
            value.close()
            raise InvalidRunError(
                f"{getattr(function, '__name__', function)!r} is a plain function that returned a coroutine; make it "
                "async def, or await graph.ainvoke(...)"
            )
        return value

    async def sleep(self, seconds: float) -> None:
        """Block the thread."""
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop runs this

    async def alone(self, task: Task) -> None:
        """Perform it here."""
        await task.perform(self)

    async def each(self, tasks: Sequence[Task], sink: Sink | None) -> AsyncGenerator[Task | None]:
        """Perform the first here and the others in workers; all in workers if events are to be read meanwhile."""
        ended: SimpleQueue[Task | None] = SimpleQueue()
        mine = () if sink is not None else tasks[:1]
        waiting: dict[Task, Future[None]] = {}
        for task in tasks[len(mine) :]:
            waiting[task] = self._workers().submit(copy_context().run, self._perform, task, ended)
        if sink is not None:
            sink.wake = partial(ended.put, None)
        try:
            for task in mine:
                await task.perform(self)
                yield task
            failed = any(task.error is not None for task in mine)
            for task in reversed(tuple(waiting)) if sink is None else ():
                if waiting[task].cancel():  # no worker has begun it
                    del waiting[task]
                    if not failed:
                        copy_context().run(drive, task.perform(self))
                        yield task
                        failed = task.error is not None
            while waiting:
                done = ended.get()
                if done is not None:
                    del waiting[done]
                    if done.error is not None:
                        for task in tuple(waiting):
                            if waiting[task].cancel():
                                del waiting[task]
                yield done
        finally:
            if sink is not None:
                sink.wake = None
            if waiting:
                wait([future for future in waiting.values() if not future.cancel()])

    def _perform(self, task: Task, ended: SimpleQueue[Task | None]) -> None:
        try:
            drive(task.perform(self))
        except BaseException as error:
            task.error = error
        finally:
            ended.put(task)


class Looped:
    """Runs nodes on the running event loop: coroutines as tasks of it, plain functions in worker threads."""

    def __init__(
        self, workers: Callable[[], ThreadPoolExecutor], made_here: set[asyncio.Task[Any] | None] | None = None
    ) -> None:
        self._workers = workers
        self._made_here: set[asyncio.Task[Any] | None] = set() if made_here is None else made_here

    def for_subgraph(self, workers: Callable[[], ThreadPoolExecutor]) -> Looped:
        """Return a host that runs nodes on the same loop."""
        return Looped(workers, self._made_here)

    async def call(self, function: Callable[..., Any], given: Any, more: Mapping[str, Any]) -> Any:
        """Call it in a worker; await what it returns if that is awaitable."""
        value = await self._offload(partial(function, given, **more))
        return await value if inspect.isawaitable(value) else value

    async def _offload(self, work: Callable[[], Any]) -> Any:
        """Run it in a worker. Nothing stops a thread, so whoever is cancelled meanwhile waits for its end.

        One of several nodes then has its result, which is kept, and is cancelled at the next thing that it waits for.
        """
        me = asyncio.current_task()
        if me is not None and me.cancelling():
            await asyncio.sleep(0)  # cancelled already: nothing more is begun
        job = self._workers().submit(copy_context().run, _raising_no_stop, work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if job.cancel():
                raise
            await _ended(job)
            if me is None or me not in self._made_here:
                raise
            me.uncancel()
            me.cancel()
        return job.result()

    async def sleep(self, seconds: float) -> None:
        """Let the loop go on."""
        await asyncio.sleep(seconds)

    async def alone(self, task: Task) -> None:
        """Perform it in this task of the loop."""
        await task.perform(self)

    async def each(self, tasks: Sequence[Task], sink: Sink | None) -> AsyncGenerator[Task | None]:
        """Perform each in a task of the loop."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Queue[Task | None] = asyncio.Queue()
        if sink is not None:
            sink.wake = partial(_wake, loop, ended)
        running = {loop.create_task(task.perform(self)): task for task in tasks}
        for one, task in running.items():
            one.add_done_callback(partial(_note_end, task, ended))
        left = len(running)
        self._made_here.update(running)
        try:
            while left:
                done = await ended.get()
                if done is not None:
                    left -= 1
                    if done.error is not None:
                        for one in running:
                            one.cancel()
                yield done
        finally:
            if sink is not None:
                sink.wake = None
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._made_here.difference_update(running)


async def _ended(job: Future[Any]) -> None:
    """Wait until a worker is done, however often the waiting is cancelled."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    job.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
    while not done.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await done.wait()


def _raising_no_stop(work: Callable[[], Any]) -> Any:
    """Call it; a StopIteration, which no future can carry, comes out as the error that a coroutine makes of it."""
    try:
        return work()
    except StopIteration as error:
        raise RuntimeError("a node or router raised StopIteration") from error


def _wake(loop: asyncio.AbstractEventLoop, ended: asyncio.Queue[Task | None]) -> None:
    loop.call_soon_threadsafe(ended.put_nowait, None)


def _note_end(task: Task, ended: asyncio.Queue[Task | None], one: asyncio.Task[None]) -> None:
    if one.cancelled():
        task.error = asyncio.CancelledError("a sibling failed, or the run was cancelled")
    elif one.exception() is not None:
        task.error = one.exception()
    ended.put_nowait(task)
