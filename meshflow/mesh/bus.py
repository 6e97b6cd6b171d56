"""Deliver events to handlers, in order, apart from the steps that they are about."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from meshflow.errors import ConfigError
from meshflow.mesh.events import Event, MeshEvent

log = logging.getLogger(__name__)
Handler = Callable[[Event], Awaitable[None] | None]
_MOST_WAITING = 100_000
_IN_HANDLER: ContextVar[bool] = ContextVar("meshflow_in_handler", default=False)


class Bus:
    """Hands events to handlers one after the other, in the order in which they came.

    Delivery runs in a task of the event loop whose step brought the first waiting event: a slow handler delays others,
    and never a step. A plain function runs in a worker thread. What a handler raises is logged and goes no further, and
    one that takes longer than ``handler_timeout_s`` is cancelled and left behind. When more events wait than may, the
    oldest are dropped and counted.
    """

    def __init__(self, handler_timeout_s: float = 30) -> None:
        self._timeout_s = handler_timeout_s
        self._handlers: dict[MeshEvent, list[Handler]] = {kind: [] for kind in MeshEvent}
        self._waiting: deque[Event] = deque()
        self._lock = threading.Lock()
        self._delivering: asyncio.Task[None] | None = None
        self._idle: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.dropped = 0

    def on(self, kind: MeshEvent, handler: Handler) -> Callable[[], None]:
        """Add a handler and return what takes it away again."""
        if not isinstance(kind, MeshEvent):
            raise ConfigError(f"{kind!r} is no MeshEvent; choose among {[one.name for one in MeshEvent]}", where="on")
        if not callable(handler):
            raise ConfigError(f"a handler is a callable, not {type(handler).__name__}", where="on")
        self._handlers[kind].append(handler)

        def remove() -> None:
            if handler in self._handlers[kind]:
                self._handlers[kind].remove(handler)

        return remove

    def wants(self, kind: MeshEvent) -> bool:
        """Say whether anybody listens."""
        return bool(self._handlers[kind])

    def emit(self, event: Event) -> None:
        """Have an event delivered; called on a running event loop, and does not wait."""
        if not self._handlers[event.kind]:
            return
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(event)
            self._begin()

    def _begin(self) -> None:
        """Have events delivered by this loop, unless one that is alive does; called with the lock held."""
        if self._delivering is None or self._delivering.get_loop().is_closed():
            context = contextvars.copy_context()
            context.run(_IN_HANDLER.set, False)  # a step that a handler takes is told of by a task of its own
            self._delivering = asyncio.get_running_loop().create_task(self._deliver(), context=context)

    async def drained(self) -> None:
        """Wait until every event so far has been delivered. Called by a handler it returns at once."""
        if _IN_HANDLER.get():
            return
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._waiting:
                self._begin()
            if self._delivering is None or self._delivering.get_loop().is_closed():
                return
            idle = loop.create_future()
            self._idle.append((loop, idle))
        await idle

    async def _deliver(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._waiting:
                        self._delivering = None
                        return
                    event = self._waiting.popleft()
                for handler in tuple(self._handlers[event.kind]):
                    await self._hand(handler, event)
        finally:
            self._tell_idle()

    def _tell_idle(self) -> None:
        with self._lock:
            self._delivering = None
            idle, self._idle = self._idle, []
        for loop, waiter in idle:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, waiter)

    async def _hand(self, handler: Handler, event: Event) -> None:
        told = asyncio.ensure_future(_tell(handler, event))
        try:
            await asyncio.wait({told}, timeout=self._timeout_s)
        finally:
            late = not told.done()
            told.cancel()
        if late:
            log.error("a handler of %s took longer than %g s, and was left behind", event.kind.value, self._timeout_s)


async def _tell(handler: Handler, event: Event) -> None:
    _IN_HANDLER.set(True)
    try:
        answer: Any = handler(event) if _is_async(handler) else await asyncio.to_thread(handler, event)
        if inspect.isawaitable(answer):
            await answer
    except BaseException as error:  # whatever a handler does, others are told, and the mesh goes on
        if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
            raise
        log.error("a handler of %s failed", event.kind.value, exc_info=error)


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
