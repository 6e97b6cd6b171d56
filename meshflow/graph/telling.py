"""Tell those who read a run's events of what its nodes do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from meshflow.clock import SystemClock
from meshflow.graph.copying import copied
from meshflow.graph.stream import INTERRUPT, METADATA, timestamp

if TYPE_CHECKING:
    from meshflow.checkpoint.store import Checkpoint
    from meshflow.graph.run import Run
    from meshflow.graph.task import Task


def tell_start(run: Run, tasks: Sequence[Task]) -> None:
    """Tell that a superstep's nodes begin."""
    modes = run.modes
    if ("tasks" not in modes and "debug" not in modes) or tasks[0].node is run.graph.start:
        return
    for task in tasks:
        event = started_event(task)
        if "tasks" in modes:
            run.emit("tasks", event)
        if "debug" in modes:
            run.emit("debug", debug_event(run.step + 1, "task", event))


def tell_kept(run: Run, task: Task) -> None:
    """Tell what a node has written without running now: before the run was resumed, or when its result was cached."""
    if "updates" in run.modes and task.node is not run.graph.start:
        run.emit("updates", {**updates_event(task), METADATA: {"cached": True}})


def tell_end(run: Run, task: Task) -> None:
    """Tell that a node has ended, or has stopped with a question."""
    modes = run.modes
    if not modes or (task.node is run.graph.start and not task.interrupts):
        return
    if task.cached and task.finished:
        tell_kept(run, task)
        return
    if task.interrupts:
        if "updates" in modes:
            run.emit("updates", {INTERRUPT: task.interrupts})
        if "values" in modes:
            run.emit("values", {**run.output(), INTERRUPT: task.interrupts})
    elif task.finished and "updates" in modes:
        run.emit("updates", updates_event(task))
    told = task.finished or task.error is not None or bool(task.interrupts)
    if told and task.node is not run.graph.start and ("tasks" in modes or "debug" in modes):
        event = ended_event(task)
        if "tasks" in modes:
            run.emit("tasks", event)
        if "debug" in modes:
            run.emit("debug", debug_event(run.step + 1, "task_result", event))


def tell_checkpoint(run: Run, checkpoint: Checkpoint) -> None:
    """Tell that a checkpoint was saved."""
    modes = run.modes
    if "checkpoints" in modes or "debug" in modes:
        event = checkpoint_event(run, checkpoint)
        if "checkpoints" in modes:
            run.emit("checkpoints", event)
        if "debug" in modes:
            run.emit("debug", debug_event(run.step, "checkpoint", event))


def updates_event(task: Task) -> dict[str, Any]:
    """Return what ``updates`` shows of a finished node: its writes, or a list of them if it wrote a key twice."""
    updates = task.updates
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
        "input": copied(task.shown()),
        "triggers": ["send"] if task.index is not None else ["edge"],
    }
    if task.node.metadata:
        event["metadata"] = dict(task.node.metadata)
    return event


def ended_event(task: Task) -> dict[str, Any]:
    """Return what ``tasks`` shows when a node has ended."""
    return {
        "id": task.id,
        "name": task.node.name,
        "error": repr(task.error) if task.error is not None else None,
        "result": _results(task),
        "interrupts": [{"value": one.value, "id": one.id} for one in task.interrupts],
    }


def _results(task: Task) -> dict[str, Any]:
    """Return what a node wrote by key; of a key that it wrote more than once, as ``{"$writes": [...]}``."""
    written: dict[str, list[Any]] = {}
    for key, value in task.updates if not task.interrupts else ():
        written.setdefault(key, []).append(copied(value))
    return {key: several[0] if len(several) == 1 else {"$writes": several} for key, several in written.items()}


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
