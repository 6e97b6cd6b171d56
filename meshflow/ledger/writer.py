"""Group commit: one thread that writes what callers of any loop or thread hand in, as many at a time as are waiting.

A single waiter costs one commit and two thread switches, since nothing waits for a batch to fill; what arrives during
a commit goes into the next one. Where there are several, what one turn of an event loop hands in goes over together:
the thread is woken once, and not by the first of them, which it would commit alone.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import Draft, Written

T = TypeVar("T")
Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]"]
Outcome = Written | BaseException
_Item = tuple[Draft | Callable[[], Any] | None, Waiter | None]
_END: _Item = (None, None)


class Appender(Protocol):
    """What the thread drives; every call is made in the thread."""

    def append(self, batch: Sequence[Draft]) -> Sequence[Outcome]:
        """Make the batch durable; one outcome for each, in order. An exception fails the whole batch."""
        ...

    def due_in(self) -> float | None:
        """Return in how many seconds ``catch_up`` is wanted if nothing else is to be done; None for not at all."""
        ...

    def catch_up(self) -> None:
        """Do what was put off; also called once at the end. A failure concerns nobody who waits."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


class GroupWriter:
    """The thread, its queue, and those who wait.

    At most ``queue_limit`` records are encoded and not yet written; further callers wait before they encode.
    """

    def __init__(self, appender: Appender, *, max_batch: int = 512, max_bytes: int = 8 << 20, queue_limit: int) -> None:
        self._appender = appender
        self._max_batch = max_batch
        self._max_bytes = max_bytes
        self._limit = queue_limit
        self._queue: SimpleQueue[list[_Item]] = SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
        self._alone = True
        self._lock = threading.Lock()
        self._outstanding = 0
        self._parked: deque[Waiter] = deque()
        self._closed = False
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None

    async def admit(self) -> None:
        """Wait until the queue has room."""
        while self._outstanding >= self._limit:
            loop = asyncio.get_running_loop()
            parked = (loop, loop.create_future())
            with self._lock:
                if self._outstanding < self._limit:
                    return
                self._parked.append(parked)
            try:
                await parked[1]
            except asyncio.CancelledError:
                self._hand_on(parked)
                raise

    def _hand_on(self, parked: Waiter) -> None:
        """Give the room that a cancelled waiter was offered to the next one."""
        with self._lock:
            if parked in self._parked:
                self._parked.remove(parked)
                return
            following = self._parked.popleft() if self._parked else None
        if following is not None:
            _wake(following[0], [(following[1], None)])

    async def append(self, draft: Draft) -> Written:
        """Return once the entry is durable; LedgerError when it is not."""
        written: Written = await self._submit(draft)
        return written

    async def run(self, job: Callable[[], T]) -> T:
        """Run a function in the thread, after all that was handed in before."""
        result: T = await self._submit(job)
        return result

    def _submit(self, item: Draft | Callable[[], Any]) -> asyncio.Future[Any]:
        if os.getpid() != self._pid:
            raise LedgerError("this ledger was opened before a fork; make a new ReplayLedger in the child process")
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        with self._lock:
            if self._closed:
                raise LedgerError("the ledger is closed")
            self._start()
            self._outstanding += 1
            if self._alone and not self._gathered:
                self._queue.put([(item, (loop, waiter))])
            elif (gathered := self._gathered.get(loop)) is not None:
                gathered.append((item, (loop, waiter)))
            else:
                self._gathered[loop] = [(item, (loop, waiter))]
                loop.call_soon(self._hand_over)
        return waiter

    def _hand_over(self) -> None:
        """Give the thread what this turn of a loop has brought, and other loops so far: one may never turn again."""
        with self._lock:
            for gathered in self._gathered.values():
                self._queue.put(gathered)
            self._gathered.clear()

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: what was acknowledged is durable already, and a forgotten close must not hang the process.
            self._thread = threading.Thread(target=self._work, name="meshflow-ledger", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Refuse what comes from now on; the thread ends after what came before. Does not wait."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for gathered in (*self._gathered.values(), [_END]):
                    self._queue.put(gathered)
                self._gathered.clear()

    async def aclose(self) -> None:
        """Write out what was handed in, then close."""
        self.stop()
        thread = self._thread
        if thread is not None and os.getpid() == self._pid:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        items: deque[_Item] = deque()
        while True:
            items += self._next() if not items else ()
            with suppress(Empty):
                while True:
                    items += self._queue.get_nowait()
            item, waiter = items[0]
            if item is None or waiter is None:
                break
            if isinstance(item, Draft):
                self._write(items)
            else:
                items.popleft()
                self._answer([(waiter, _outcome(item))])
        if self._appender.due_in() is not None:
            _outcome(self._appender.catch_up)
        self._appender.close()

    def _next(self) -> list[_Item]:
        """Return what was handed in next; do what was put off when nothing is for so long."""
        while True:
            try:
                return self._queue.get(timeout=self._appender.due_in())
            except Empty:
                _outcome(self._appender.catch_up)

    def _write(self, items: deque[_Item]) -> None:
        """Write the drafts that come first, as many as make a batch."""
        drafts, waiters, size = list[Draft](), list[Waiter](), 0
        while items and len(drafts) < self._max_batch and size < self._max_bytes:
            item, waiter = items[0]
            if not isinstance(item, Draft) or waiter is None:
                break
            items.popleft()
            drafts.append(item)
            waiters.append(waiter)
            size += item.size
        self._alone = len(drafts) == 1
        outcomes = _outcome(lambda: self._appender.append(drafts))
        if isinstance(outcomes, BaseException):
            # One exception for each waiter, since raising one writes a traceback into it.
            outcomes = [_copy(outcomes) for _ in drafts]
        self._answer(list(zip(waiters, outcomes, strict=True)))

    def _answer(self, answers: list[tuple[Waiter, Any]]) -> None:
        """Wake all who waited, and as many parked as fit, with one call for each event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for (loop, waiter), outcome in answers:
            mine = by_loop.get(loop)
            if mine is None:
                mine = by_loop[loop] = []
            mine.append((waiter, outcome))
        with self._lock:
            self._outstanding -= len(answers)
            for _ in range(min(len(self._parked), self._limit - self._outstanding)):
                loop, waiter = self._parked.popleft()
                by_loop.setdefault(loop, []).append((waiter, None))
        for loop, mine in by_loop.items():
            _wake(loop, mine)


def _wake(loop: asyncio.AbstractEventLoop, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    # A closed loop raises, and nobody waits there any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_deliver, answers)


def _outcome(job: Callable[[], Any]) -> Any:
    """Return what the job returned or raised: nothing may end the thread while somebody waits."""
    try:
        return job()
    except Exception as error:  # the waiter raises it, as if it had run the job itself
        return error


def _copy(error: BaseException) -> LedgerError:
    copy = LedgerError(str(error))
    copy.__cause__ = error
    return copy


def _deliver(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for waiter, outcome in answers:
        if waiter.done():
            continue
        if isinstance(outcome, BaseException):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)
