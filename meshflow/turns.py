"""Taking turns between callers of different event loops and threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_POLL_S = 0.01


@asynccontextmanager
async def turn(lock: threading.Lock) -> AsyncIterator[None]:
    """Hold a lock that callers of other loops and threads take too, without blocking the loop that waits for it.

    It is never taken in a thread: that would take it for a caller that has been cancelled since, and keep it.
    """
    while not lock.acquire(blocking=False):  # noqa: ASYNC110 - no event reaches across loops
        await asyncio.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.release()
