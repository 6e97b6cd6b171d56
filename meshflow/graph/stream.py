"""What a run tells while it goes on: the modes of ``stream``, and where events wait until they are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from meshflow.clock import SystemClock
from meshflow.graph.copying import copied
from meshflow.graph.errors import InvalidRunError

if TYPE_CHECKING:
    from meshflow.checkpoint.store import Checkpoint
    from meshflow.graph.run import Run
    from meshflow.graph.task import Task

MODES = ("values", "updates", "tasks", "checkpoints", "debug", "custom")
INTERRUPT = "__interrupt__"
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


def updates_event(task: Task) -> dict[str, Any]:
    """Return what ``updates`` shows of a finished node: its writes, or a list of them if it wrote a key twice."""
    output = task.output
    updates = output.updates if output is not None else []
    if not updates:
        return {task.node.name: None}
    merged = dict(updates)
    if len(merged) == len(updates):
        return {task.node.name: copied(merged)}
    return {task.node.name: [{key: copied(value)} for key, value in updates]}


def started_event(task: Task) -> dict[str, Any]:
    """Return what ``tasks`` shows when a node begins."""
    event: dict[str, Any] = {
        "id": task.id,
        "name": task.node.name,
        "input": copied(dict(task.shown())),
        "triggers": ["send"] if task.index is not None else ["edge"],
    }
    if task.node.metadata:
        event["metadata"] = dict(task.node.metadata)
    return event


def ended_event(task: Task) -> dict[str, Any]:
    """Return what ``tasks`` shows when a node has ended."""
    updates = task.output.updates if task.output is not None and not task.interrupts else []
    return {
        "id": task.id,
        "name": task.node.name,
        "error": repr(task.error) if task.error is not None else None,
        "result": copied(dict(updates)),
        "interrupts": [{"value": one.value, "id": one.id} for one in task.interrupts],
    }


def checkpoint_event(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what ``checkpoints`` shows of a checkpoint that was just saved."""
    thread = {"thread_id": run.settings.thread_id, "checkpoint_ns": "|".join(run.namespace)}
    parent = checkpoint.parent_id
    frontier = run.frontier
    return {
        "config": {"configurable": {**thread, "checkpoint_id": checkpoint.checkpoint_id}},
        "parent_config": {"configurable": {**thread, "checkpoint_id": parent}} if parent is not None else None,
        "values": run.output(),
        "metadata": orjson.loads(checkpoint.metadata),
        "next": [*(send.node for send in frontier.sends), *frontier.names],
    }


def debug_event(step: int, kind: str, payload: Any) -> dict[str, Any]:
    """Return an event of ``debug``: the others' payloads, with the superstep, the time and the kind."""
    return {"step": step, "timestamp": timestamp(SystemClock().now_us()), "type": kind, "payload": payload}


def timestamp(microseconds: int) -> str:
    """Return a time as ISO 8601 in UTC."""
    from datetime import UTC, datetime, timedelta

    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()
