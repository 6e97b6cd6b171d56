"""Worker threads for handlers that are not async.

``concurrent.futures`` joins its threads when the interpreter exits, so that one stuck handler keeps the process alive
for ever, and a thread that is stuck stays lost to the pool. These threads are daemons, and a stuck one is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from meshflow_executor.ending import NOT_BEGUN, Ending

Deliver = Callable[[Ending], None]


class Job:
    """One call waiting for a thread, or in one."""

    __slots__ = ("call", "deliver", "state")

    def __init__(self, call: Callable[[], Any], deliver: Deliver) -> None:
        self.call = call
        self.deliver = deliver
        self.state = "waiting"


class Workers:
    """At most ``size`` threads, beside at most ``max_stuck`` that hang past their time."""

    def __init__(self, size: int, max_stuck: int) -> None:
        self._size = size
        self._max_stuck = max_stuck
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0
        self.stuck = 0
        self._closed = False

    def submit(self, call: Callable[[], Any], deliver: Deliver) -> Job:
        """Queue a call; ``deliver`` is called in the worker's thread when it has ended."""
        job = Job(call, deliver)
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor has been shut down")
            if self._free > 0:
                self._free -= 1
            elif self._threads < self._size:
                self._start()
            self._queue.put(job)
        return job

    async def run(self, call: Callable[[], Any], seconds: float) -> Ending:
        """Run a call in a thread and return how it ended; a thread cannot be interrupted, so a late one is left."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ending | None] = loop.create_future()
        job = self.submit(call, lambda ending: tell(loop, future, ending))
        timer = loop.call_later(max(0.0, seconds), settle, future, None)
        try:
            ending = await future
        except asyncio.CancelledError:
            self.give_up(job)
            raise
        finally:
            timer.cancel()
        if ending is not None:
            return ending
        return Ending(late=True) if self.give_up(job) else NOT_BEGUN

    def give_up(self, job: Job) -> bool:
        """Stop waiting for a job. Returns False where it had not begun, and then it never will."""
        with self._lock:
            if job.state == "waiting":
                job.state = "dropped"
                return False
            if job.state == "running" and self.stuck < self._max_stuck:
                job.state = "stuck"
                self.stuck += 1
                self._threads -= 1
                if not self._queue.empty() and self._threads < self._size and not self._closed:
                    self._start()
            return True

    def close(self) -> None:
        """Take no more calls, and let the threads end as they become free."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._queue.put(None)

    async def drain(self, seconds: float) -> bool:
        """Wait until every thread has ended or the time is up, and say which."""
        end = time.monotonic() + seconds
        while self._threads or self.stuck:
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(0.005)
        return True

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name="meshflow-worker", daemon=True).start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._begin(job):
                job.deliver(_call(job.call))
            if not self._end(job):
                return
            # A thread that waits must not keep the last call's arguments alive.
            del job
        with self._lock:
            self._threads -= 1

    def _begin(self, job: Job) -> bool:
        with self._lock:
            if job.state != "waiting":
                return False
            job.state = "running"
            return True

    def _end(self, job: Job) -> bool:
        """Return False where the job was given up and its thread replaced."""
        with self._lock:
            if job.state == "stuck":
                self.stuck -= 1
                return False
            job.state = "done"
            if self._queue.empty():
                self._free += 1
            return True


def _call(call: Callable[[], Any]) -> Ending:
    try:
        return Ending(call())
    except BaseException as error:  # it is raised again in the caller's task
        return Ending(error=error)


def tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], answer: Any) -> None:
    """Settle a future of a loop from another thread."""
    with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody waits
        loop.call_soon_threadsafe(settle, future, answer)


def settle(future: asyncio.Future[Any], answer: Any) -> None:
    """Set a future's result unless it is settled or cancelled already."""
    if not future.done():
        future.set_result(answer)
