"""What a run tells while it goes on: the modes of ``stream``, and where events wait until they are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from meshflow.graph.errors import InvalidRunError

MODES = ("values", "updates", "tasks", "checkpoints", "debug", "custom")
INTERRUPT, METADATA = "__interrupt__", "__metadata__"
_NONE: frozenset[str] = frozenset()
Event = tuple[tuple[str, ...], str, Any]


class Sink:
    """The events of a run and of the subgraphs in it, until the caller reads them.

    Nodes in other threads put events in; ``wake`` tells a run that waits for its nodes that there is something to read.
    """

    __slots__ = ("items", "listed", "modes", "subgraphs", "wake")

    def __init__(self, mode: str | Sequence[str] = (), subgraphs: bool = False) -> None:
        chosen = (mode,) if isinstance(mode, str) else tuple(mode)
        for one in chosen:
            if one not in MODES:
                raise InvalidRunError(f"unknown stream mode {one!r}; choose among {list(MODES)}")
        self.modes = frozenset(chosen)
        self.listed = not isinstance(mode, str)
        self.subgraphs = subgraphs
        self.items: deque[Event] = deque()
        self.wake: Callable[[], None] | None = None

    @property
    def live(self) -> bool:
        """Whether events come while nodes run, and not only between them."""
        return "custom" in self.modes or (self.subgraphs and bool(self.modes))

    def modes_in(self, nested: bool) -> frozenset[str]:
        """Return what a run reports: a nested one only if subgraphs are asked for, custom events always."""
        if not nested or self.subgraphs:
            return self.modes
        return self.modes & {"custom"} or _NONE

    def emit(self, namespace: tuple[str, ...], mode: str, data: Any) -> None:
        """Put an event in."""
        self.items.append((namespace, mode, data))
        if self.wake is not None:
            self.wake()

    def drain(self) -> Iterator[Any]:
        """Yield what is there, in the form that the caller asked for."""
        items = self.items
        while items:
            namespace, mode, data = items.popleft()
            if self.subgraphs:
                yield (namespace, mode, data) if self.listed else (namespace, data)
            else:
                yield (mode, data) if self.listed else data


def timestamp(microseconds: int) -> str:
    """Return a time as ISO 8601 in UTC."""
    from datetime import UTC, datetime, timedelta

    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()
