"""Results of nodes that are kept for equal inputs, in the memory of the compiled graph."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from meshflow.clock import Clock, SystemClock
from meshflow.graph.nodes import Node


class NodeCache:
    """Keeps at most ``limit`` results, the longest unused go first."""

    def __init__(self, limit: int = 1_024, clock: Clock | None = None) -> None:
        self._limit = limit
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, tuple[int | None, Any]] = OrderedDict()

    def key(self, node: Node, given: Any, scope: str) -> Any:
        """Return what a result is kept under; ``scope`` parts tenants and agents from each other."""
        assert node.cache is not None  # noqa: S101 - asked for nodes with a policy only
        return scope, node.name, node.cache.key(dict(given) if isinstance(given, dict) else given)

    def get(self, key: Any) -> tuple[Any] | None:
        """Return the result in a tuple of one, or None."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            until_ns, value = found
            if until_ns is not None and self._clock.monotonic_ns() >= until_ns:
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return (value,)

    def put(self, key: Any, value: Any, ttl_s: float | None) -> None:
        """Keep a result."""
        until_ns = None if ttl_s is None else self._clock.monotonic_ns() + int(ttl_s * 1e9)
        with self._lock:
            self._kept[key] = (until_ns, value)
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget every result."""
        with self._lock:
            self._kept.clear()
