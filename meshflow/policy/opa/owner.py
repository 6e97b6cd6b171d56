"""One event loop in a thread of its own, which owns a pool of connections for callers on any loop."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_STOP_WAIT_S = 5.0


class LoopOwner:
    """Runs coroutines on its loop. A caller that is cancelled cancels what it asked for."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._finalizer = weakref.finalize(self, _stop, self._loop, self._thread)
        self._thread.start()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the owner's loop and return its result."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def stop(self) -> None:
        """End the loop and its thread."""
        if self._finalizer.detach() is not None:
            await asyncio.to_thread(_stop, self._loop, self._thread)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:
        thread.join(_STOP_WAIT_S)
        if not thread.is_alive():
            loop.close()
